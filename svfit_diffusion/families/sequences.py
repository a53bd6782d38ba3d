"""Pictures and prompts as sequences of tokens: patches of 2 x 2, and prompts of several lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def to_patches(latents: Tensor) -> Tensor:
    """Latents [n, c, 2 rows, 2 columns] -> patches of 2 x 2 [n, rows x columns, 4c]."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, 4 * channels)


def from_patches(patches: Tensor, rows: int, columns: int) -> Tensor:
    """Patches of 2 x 2 [n, rows x columns, 4c] -> latents [n, c, 2 rows, 2 columns]."""
    count, _, size = patches.shape
    patches = patches.reshape(count, rows, columns, size // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(count, size // 4, 2 * rows, 2 * columns)


def patch_grid(pipe: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches of 2 x 2, of a picture of height x width pixels."""
    side = 2 * pipe.vae_scale_factor
    return height // side, width // side


def unpatched(pipe: Any, patches: Tensor, height: int, width: int) -> Tensor:
    """Patches [1, rows x columns, 4c] of a picture of height x width pixels -> latents."""
    return from_patches(patches, *patch_grid(pipe, height, width))


def places(rows: int, columns: int) -> Tensor:
    """Where each patch is [rows x columns, 3]: 0, row, column."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))


def pad(states: Sequence[Tensor]) -> dict[str, Tensor]:
    """States of prompts, each [its length, ...] -> "states" [n, longest, ...], padded with zeros,
    and "there" [n, longest], which is 1 where they are.
    """
    there = [one.new_ones(len(one)) for one in states]
    return {
        "states": pad_sequence([*states], batch_first=True),
        "there": pad_sequence(there, batch_first=True),
    }


def trim(text: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What `pad` gave -> the same without the padding that all share, and a mask [n, longest]."""
    there = text["there"] > 0.5
    longest = int(there.sum(1).max())
    return text["states"][:, :longest], there[:, :longest]
