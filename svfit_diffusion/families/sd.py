"""Stable Diffusion with a UNet: 1.x, 2.x, XL, and Toybox.

noisy = sqrt(a_t) latents + sqrt(1 - a_t) noise        a_t: the scheduler's alphas_cumprod
target = noise, or the velocity sqrt(a_t) noise - sqrt(1 - a_t) latents   (arXiv 2202.00512)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..settings import TrainConfig
from .base import Family


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x, and Toybox: one CLIP encoder, a UNet, epsilon or v."""

    name = "sd"
    pipelines = ("StableDiffusionPipeline",)
    models = ("UNet2DConditionModel", "UNetMotionModel")
    dtype = "float16"
    denoiser = "unet"
    encoders = (("tokenizer", "text_encoder"),)
    original = ("v1", "v2")

    def check(self, config: TrainConfig) -> None:
        """Refuse the weighting of flow matching."""
        if config.weighting_scheme:
            raise ValueError(
                "weighting_scheme is for bases trained by flow matching (SD3, FLUX); this base's "
                "loss is weighted by snr_gamma."
            )

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Token ids [n, length] -> hidden states [n, length, width]."""
        return {"encoder_hidden_states": pipe.text_encoder(ids[0]).last_hidden_state}

    def training_scheduler(self, scheduler: Any) -> Any:
        """DDPM's: what SDXL is drawn with (Euler's) adds noise to unscaled latents instead."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(scheduler.config)

    def add_noise(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Latents and noise [n, c, h, w], steps [n] -> noisy latents."""
        return scheduler.add_noise(latents, noise, steps)

    def target(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Noise or velocity, as the scheduler's configuration states."""
        kind = scheduler.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            return scheduler.get_velocity(latents, noise, steps)
        raise ValueError(
            f"the base predicts {kind!r}, but epsilon or v_prediction was expected; its "
            "scheduler_config.json may be wrong."
        )

    def weights(self, scheduler: Any, steps: Tensor, config: TrainConfig) -> Tensor:
        """Min-SNR weights (arXiv 2303.09556) [n], or ones."""
        gamma = config.snr_gamma
        if gamma is None:
            return torch.ones(len(steps), device=steps.device)
        from diffusers.training_utils import compute_snr

        snr = compute_snr(scheduler, steps)
        shift = 1.0 if scheduler.config.prediction_type == "v_prediction" else 0.0
        return snr.clamp(max=gamma) / (snr + shift).clamp(min=1e-8)

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The UNet's output [n, channels, h, w]."""
        return denoiser(noisy, times, **text).sample

    def sampling(self, pipe: Any) -> tuple[int, float]:
        """The usual 25 steps at 7.5."""
        return 25, 7.5


class StableDiffusionXL(StableDiffusion):
    """SDXL: two CLIP encoders side by side, a pooled text vector, and the picture's size as ids."""

    name = "sdxl"
    pipelines = ("StableDiffusionXLPipeline",)
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    original = ("xl_base",)

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Two times ids [n, length] -> hidden states [n, length, widths], pooled [n, width]."""
        hidden, pooled = clip_pair(pipe, self.encoders, ids)
        return {"encoder_hidden_states": hidden, "text_embeds": pooled[-1]}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The UNet's output [n, channels, h, w]; the picture is as large as its latents, uncut."""
        height, width = (8 * size for size in noisy.shape[-2:])
        sizes = noisy.new_tensor([height, width, 0, 0, height, width])
        added = {
            "text_embeds": text["text_embeds"],
            "time_ids": sizes.repeat(len(noisy), 1),
        }
        hidden = text["encoder_hidden_states"]
        return denoiser(noisy, times, hidden, added_cond_kwargs=added).sample


def clip_pair(
    pipe: Any, encoders: tuple[tuple[str, str], ...], ids: tuple[Tensor, ...]
) -> tuple[Tensor, list[Tensor]]:
    """Ids [n, length] of each CLIP encoder -> last hidden states but one, side by side
    [n, length, widths], and the pooled vectors [n, width] (projected, where the encoder does that).
    """
    models = (getattr(pipe, encoder) for _, encoder in encoders)
    outputs = [model(i, output_hidden_states=True) for model, i in zip(models, ids, strict=True)]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return hidden, [output[0] for output in outputs]
