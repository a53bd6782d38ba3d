"""A rolling pool of captioned latents: encoding is dear, so each latent serves several times."""

from __future__ import annotations

import numpy as np
import torch
from objects import TRAIN
from vae_model import load_vae, to_tensor
from world import World

CORE = ("dog", "cat", "car", "house", "apple", "balloon", "ghost", "airplane")
CAPACITY, REUSE = 15_000, 10  # latents of one worker, uses of each
SIMPLE = 0.85  # share of single, large, centred objects in this first phase


def chosen_objects(count: int) -> tuple:
    """The first `count` training objects: the core, then a fixed random order."""
    core = [i for i, item in enumerate(TRAIN) if item.name in CORE]
    others = [i for i in np.random.default_rng(3).permutation(len(TRAIN)) if i not in core]
    return tuple(TRAIN[i] for i in sorted([*core, *others][:count]))


class LatentPool:
    """Latents (8, 16, 16), scaled, with captions; grows to CAPACITY, then renews itself."""

    def __init__(self, objects: int, seed: int, start: int) -> None:
        self.vae, self.world = load_vae(), World(chosen_objects(objects))
        self.rng = np.random.default_rng(seed)
        self.latents = torch.zeros(CAPACITY, 8, 16, 16)
        self.captions: list[str] = []
        self.next, self.owed = 0, 0.0
        for _ in range(start // 32):
            self.add(32)

    @torch.inference_mode()
    def add(self, count: int) -> None:
        """Render and encode `count` new pictures."""
        samples = [self.world.sample(self.rng, SIMPLE) for _ in range(count)]
        x = to_tensor(np.stack([sample.picture for sample in samples]))
        latents = self.vae.encode(x).latent_dist.mode() * self.vae.config.scaling_factor
        for latent, sample in zip(latents, samples, strict=True):
            self.latents[self.next] = latent
            if self.next < len(self.captions):
                self.captions[self.next] = sample.caption
            else:
                self.captions.append(sample.caption)
            self.next = (self.next + 1) % CAPACITY

    def batch(self, size: int) -> tuple[torch.Tensor, list[str]]:
        """(size, 8, 16, 16) latents and their captions."""
        self.owed += size / REUSE
        if self.owed >= 16:
            self.add(int(self.owed))
            self.owed -= int(self.owed)
        chosen = self.rng.integers(0, len(self.captions), size)
        return self.latents[torch.from_numpy(chosen)], [self.captions[i] for i in chosen]
