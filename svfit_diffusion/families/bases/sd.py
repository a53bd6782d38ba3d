"""Stable Diffusion with a UNet: 1.x, 2.x, XL, and Toybox."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, SECOND, Diffusion, Sampling, TextEncoder


class StableDiffusion(Diffusion):
    """Stable Diffusion 1.x and 2.x, and Toybox: one CLIP encoder, a UNet, epsilon or v."""

    name = "sd"
    title = "Stable Diffusion 1 or 2"
    bases = {"Stable Diffusion 1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
    pipelines = ("StableDiffusionPipeline",)
    models = ("UNet2DConditionModel", "UNetMotionModel")
    dtype = "float16"
    denoiser = "unet"
    encoders = (FIRST,)
    original = ("v1", "v2")
    defaults = Sampling(steps=25, guidance=7.5)

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Token ids [n, length] -> hidden states [n, length, width]."""
        return {"encoder_hidden_states": pipe.text_encoder(ids[0]).last_hidden_state}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The UNet's output [n, channels, h, w]."""
        return denoiser(noisy, times, **text).sample


class StableDiffusionXL(StableDiffusion):
    """SDXL: two CLIP encoders side by side, a pooled text vector, and the picture's size and crop
    (arXiv 2307.01952, 2.2).
    """

    name = "sdxl"
    title = "Stable Diffusion XL"
    bases = {"SDXL": "stabilityai/stable-diffusion-xl-base-1.0"}
    pipelines = ("StableDiffusionXLPipeline",)
    encoders = (FIRST, SECOND)
    original = ("xl_base",)

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Ids [n, length] of both -> hidden states [n, length, widths], pooled [n, width]."""
        hidden, pooled = clip_pair(pipe, self.encoders, ids)
        return {"encoder_hidden_states": hidden, "text_embeds": pooled[-1]}

    def frame_conditioning(self, frames: Tensor) -> dict[str, Tensor]:
        """Original size, top left corner of the crop, and target size, as they are: [n, 6]."""
        return {"time_ids": frames}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The UNet's output [n, channels, h, w]."""
        added = {key: text[key] for key in ("text_embeds", "time_ids")}
        hidden = text["encoder_hidden_states"]
        return denoiser(noisy, times, hidden, added_cond_kwargs=added).sample


def clip_pair(
    pipe: Any, encoders: tuple[TextEncoder, ...], ids: tuple[Tensor, ...]
) -> tuple[Tensor, list[Tensor]]:
    """Ids [n, length] of each CLIP encoder -> the hidden states before the last layer, side by side
    [n, length, widths], and the pooled vectors [n, width] (projected, if the encoder does that).
    """
    models = (getattr(pipe, encoder.model) for encoder in encoders)
    outputs = [model(i, output_hidden_states=True) for model, i in zip(models, ids, strict=True)]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return hidden, [output[0] for output in outputs]
