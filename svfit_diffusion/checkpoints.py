"""Checkpoints of a training: a folder each, whole or not there, the old ones kept until then.

Only what is trained is in them (parameters and optimizer, some kilobytes): randomness depends on
the seed and the step alone, and the frozen base is at hand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

STATE, SETTINGS = "state.safetensors", "state.json"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], settings: dict[str, Any], limit: int | None
) -> Path:
    """Write `folder/checkpoint-<step>`, then delete the oldest beyond `limit`."""
    path = folder / f"checkpoint-{step}"
    temporary = folder / f".checkpoint-{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    contents = {STATE: save(plain), SETTINGS: json.dumps(settings).encode()}
    for name, data in contents.items():
        with (temporary / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    if path.exists():
        shutil.rmtree(path)
    os.replace(temporary, path)
    for old in list_checkpoints(folder)[: -limit if limit else 0]:
        shutil.rmtree(old)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a training, oldest first."""
    found = (p for p in Path(folder).glob("checkpoint-*") if re.fullmatch(r"\d+", p.name[11:]))
    return sorted((p for p in found if (p / SETTINGS).is_file()), key=lambda p: int(p.name[11:]))


def find_checkpoint(folder: Path, wanted: str) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` names; "latest" may find none.

    A checkpoint that is named and is not there is an error, never a fresh start.
    """
    if wanted == "latest":
        return next(reversed(list_checkpoints(folder)), None)
    for path in (Path(wanted), folder / wanted):
        if (path / SETTINGS).is_file():
            return path
    held = ", ".join(p.name for p in list_checkpoints(folder)) or "none"
    raise ValueError(f"there is no checkpoint {wanted!r}; {folder} holds: {held}.")


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of a checkpoint; ValueError when it is damaged."""
    try:
        return load_file(path / STATE), json.loads((path / SETTINGS).read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"the checkpoint {path} is damaged ({error}); resume from an older one."
        ) from None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: "optimizer.<parameter>.<entry>"."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{key}": torch.as_tensor(value)
        for i, entries in state.items()
        for key, value in entries.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put packed state back into an optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
