"""How much the picture changes with its latents, by direction: what an error of them weighs."""

from __future__ import annotations

import numpy as np
import torch
from vae_model import to_tensor
from world import World

PICTURES, STEP = 32, 0.1
LEAST = 0.2  # of the mean weight: what a direction weighs at least


@torch.no_grad()
def picture_metric(vae) -> torch.Tensor:
    """The root (16, 16) of a metric of mean weight 1: |root e|^2 weighs an error e of the latents.

    Each principal direction of the latents weighs as much as the decoded picture's mean square
    changes, with noise of deviation STEP in it.
    """
    world, noise = World(), torch.Generator().manual_seed(0)
    pictures = [world.sample(np.random.default_rng(9000 + i)).picture for i in range(PICTURES)]
    latents = vae.encode(to_tensor(np.stack(pictures))).latent_dist.mode()
    axes = torch.linalg.eigh(torch.cov(latents.movedim(1, -1).flatten(0, -2).T)).eigenvectors
    still, weights = vae.decode(latents).sample, []
    for axis in axes.T:
        moved = STEP * torch.randn(PICTURES, 1, *latents.shape[2:], generator=noise)
        there = vae.decode(latents + moved * axis[:, None, None]).sample
        weights.append((there - still).square().mean())
    weights = torch.stack(weights)
    weights = (weights / weights.mean()).clamp_min(LEAST)
    return (axes @ torch.diag((weights / weights.mean()).sqrt()) @ axes.T).clone()
