"""Decoding while a base is trained: its VAE is in float32, the denoiser perhaps in half precision.

Under autocast, convolutions of a float32 VAE would still be done in half precision, in which that
of SDXL gives NaN: black pictures. So latents are cast to the VAE's precision, outside autocast, and
what is no picture is not stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn


class NoPicture(ValueError):
    """What was generated is not finite, or of one colour."""


@contextlib.contextmanager
def own_precision(vae: nn.Module) -> Iterator[None]:
    """Let a pipeline decode latents of any precision in that of its VAE.

    NoPicture is raised where the decoded pixels are not finite.
    """
    inner = vae.decode

    def decode(latents: Tensor, *rest: Any, **named: Any) -> Any:
        with torch.autocast(latents.device.type, enabled=False):
            output = inner(latents.to(vae.dtype), *rest, **named)
        if not torch.isfinite(output[0]).all():
            raise NoPicture(
                "the base generated a picture with numbers that are not finite, which is not "
                "stored; try --mixed_precision bf16 or no."
            )
        return output

    vae.decode = decode
    try:
        yield
    finally:
        del vae.decode


@contextlib.contextmanager
def without_overflow(vae: nn.Module) -> Iterator[None]:
    """For a while, a VAE that overflows in float16 in float32, as pipelines decode."""
    overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if overflows:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if overflows:
            vae.to(torch.float16)


def check_picture(image: Image.Image) -> None:
    """NoPicture for a picture of one colour."""
    bands = image.convert("RGB").getextrema()
    if all(low == high for low, high in bands):
        colour = tuple(low for low, _ in bands)
        raise NoPicture(
            f"the base generated a picture of one colour, RGB {colour}, which is not stored; try "
            "--mixed_precision bf16 or no."
        )
