"""Families trained by flow matching (rectified flow, arXiv 2403.03206).

    noisy = (1 - s) latents + s noise        target = noise - latents

s is the noise level sigma of a timestep, 0 to 1, shifted as the scheduler's configuration states.
Timesteps begin at pure noise, as in diffusers' training scripts. They are sampled and weighted
(`weighting_scheme`) by diffusers' own functions.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..settings import TrainConfig
from .base import Family
from .sequences import unpatched


class Flow(Family):
    """What families trained by flow matching share.

    scheme: how diffusers' script for the family samples timesteps.
    """

    denoiser = "transformer"
    scheme: ClassVar[str] = "none"

    def check(self, config: TrainConfig) -> None:
        """Raise ValueError for the loss weights of diffusion."""
        if config.snr_gamma is not None:
            raise ValueError(
                "snr_gamma weights the loss of Stable Diffusion 1, 2 and XL; this base was trained "
                "by flow matching: use weighting_scheme."
            )

    def size_multiple(self, pipe: Any) -> int:
        """Two latents: they are cut into patches of 2 x 2."""
        return 2 * pipe.vae_scale_factor

    def training_scheduler(self, scheduler: Any) -> Any:
        """A new scheduler of the same configuration: sampling has not set its timesteps."""
        return type(scheduler).from_config(scheduler.config)

    def sample_timestep(self, random: torch.Generator, count: int, config: TrainConfig) -> Tensor:
        """A timestep [] below `count`, distributed as the scheme says."""
        from diffusers.training_utils import compute_density_for_timestep_sampling

        density = compute_density_for_timestep_sampling(
            config.weighting_scheme or self.scheme,
            1,
            config.logit_mean,
            config.logit_std,
            config.mode_scale,
            generator=random,
        )
        return (density[0] * count).long().clamp(0, count - 1)

    def add_noise(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Latents and noise [n, c, h, w], timesteps [n] -> noisy latents."""
        level = self.levels(scheduler, steps).view(-1, 1, 1, 1).to(latents)
        return (1.0 - level) * latents + level * noise

    def target(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """The direction from the picture to the noise."""
        return noise - latents

    def model_timesteps(self, scheduler: Any, steps: Tensor) -> Tensor:
        """The scheduler's own timesteps [n], 1 to 1000."""
        return scheduler.timesteps.to(steps.device)[steps]

    def levels(self, scheduler: Any, steps: Tensor) -> Tensor:
        """Noise levels sigma [n] of timesteps, 0 to 1."""
        return scheduler.sigmas.to(steps.device)[steps]

    def weights(self, scheduler: Any, steps: Tensor, config: TrainConfig) -> Tensor:
        """The scheme's weights [n]."""
        from diffusers.training_utils import compute_loss_weighting_for_sd3

        levels = self.levels(scheduler, steps)
        return compute_loss_weighting_for_sd3(config.weighting_scheme or self.scheme, levels)


class PatchedFlow(Flow):
    """Families whose pipelines hold latents as patches of 2 x 2."""

    def unscale_latents(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """Patches [1, rows x columns, 4c] -> what the VAE decodes."""
        found = unpatched(pipe, latents, height, width)
        return super().unscale_latents(pipe, found, height, width)
