"""Families trained by diffusion with a fixed variance schedule (DDPM, arXiv 2006.11239).

noisy = sqrt(a_t) latents + sqrt(1 - a_t) noise        a_t: the scheduler's alphas_cumprod
target = noise, or the velocity sqrt(a_t) noise - sqrt(1 - a_t) latents   (arXiv 2202.00512)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..settings import TrainConfig
from .base import Family


class Diffusion(Family):
    """What families trained by diffusion share: noise, target and weights of the loss."""

    def check(self, config: TrainConfig) -> None:
        """Raise ValueError for the loss weights of flow matching."""
        if config.weighting_scheme:
            raise ValueError(
                "weighting_scheme is for bases trained by flow matching (SD3, FLUX); this base's "
                "loss is weighted by snr_gamma."
            )

    def training_scheduler(self, scheduler: Any) -> Any:
        """DDPM's; SDXL is sampled with Euler's, which adds noise to unscaled latents."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(scheduler.config)

    def sample_timestep(self, random: torch.Generator, count: int, config: TrainConfig) -> Tensor:
        """A timestep [] below `count`, all equally likely."""
        return torch.randint(count, (), generator=random)

    def add_noise(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Latents and noise [n, c, h, w], timesteps [n] -> noisy latents."""
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
