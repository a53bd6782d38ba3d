"""A rolling pool of captioned latents: encoding is dear, so each latent serves several times."""

from __future__ import annotations

import functools
from collections import deque
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from common import LATENT_CHANNELS, LATENT_SIZE, save_checkpoint, work_dir
from objects import MORE, TRAIN
from vae_model import load_vae, to_tensor
from world import Sample, World

CORE = ("dog", "cat", "car", "house", "apple", "balloon", "ghost", "airplane")
CAPACITY, REUSE = 12_000, 8  # latents of one worker, uses of each
NOBODY = -1
CHUNK = 32  # pictures rendered and encoded at once


def chosen_objects(count: int) -> tuple:
    """The first `count` training objects: the core, then a fixed random order."""
    core = [i for i, item in enumerate(TRAIN) if item.name in CORE]
    others = [i for i in np.random.default_rng(3).permutation(len(TRAIN)) if i not in core]
    return tuple(TRAIN[i] for i in sorted([*core, *others][:count]))


@functools.cache
def world_of(objects: int, unnamed: float = 0.0) -> World:
    """A process's own world: the first `objects` training objects, a share of unnamed ones."""
    return World(chosen_objects(objects), MORE if unnamed else (), unnamed)


def render(objects: int, unnamed: float, seed: tuple, mix: tuple) -> list[Sample]:
    """A chunk of samples, in a process of its own."""
    rng, world = np.random.default_rng(seed), world_of(objects, unnamed)
    return [world.sample(rng, *mix) for _ in range(CHUNK)]


class LatentPool:
    """Latents (16, 16, 16), scaled, with captions; grows to CAPACITY, then renews itself.

    `mix` are the shares of `World.draw`, `unnamed` that of `World`. A pool can be kept in the work
    folder, as `pool-<rank>.pt`, so that the next step does not begin with nothing. With
    `renderers`, as many processes draw the pictures, ahead of their use: a GPU is faster than one
    core can draw.
    """

    def __init__(
        self,
        objects: int,
        seed: int,
        rank: int,
        start: int,
        mix: tuple,
        device: str = "cpu",
        renderers: int = 0,
        unnamed: float = 0.0,
    ) -> None:
        self.vae, self.world = load_vae().to(device), world_of(objects, unnamed)
        self.rng, self.mix = np.random.default_rng(seed), mix
        self.renderers, self.chunks, self.ahead = renderers, 0, deque()
        self.job = functools.partial(render, objects, unnamed, mix=mix)
        self.seed = seed
        self.places = {item: place for place, item in enumerate(self.world.objects)}
        self.executor = ProcessPoolExecutor(renderers) if renderers else None
        self.latents = torch.zeros(CAPACITY, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        self.things = torch.full((CAPACITY, 2), NOBODY)  # indices into world.objects
        self.captions: list[str] = []
        self.next, self.owed = 0, 0.0
        self.path = work_dir() / f"pool-{rank}.pt"
        if self.path.is_file():
            kept = torch.load(self.path, weights_only=True)
            self.captions = kept["captions"]
            self.next = len(self.captions) % CAPACITY
            self.latents[: len(self.captions)] = kept["latents"]
            self.things[: len(self.captions)] = kept["things"]
        self.add(max(0, start - len(self.captions)))

    def save(self) -> None:
        """Keep the pool for the next start."""
        size = len(self.captions)
        state = {"latents": self.latents[:size].clone(), "things": self.things[:size].clone()}
        save_checkpoint(self.path, {"captions": self.captions, **state})

    @torch.inference_mode()
    def encode(self, pictures: list[np.ndarray]) -> torch.Tensor:
        """uint8 pictures (128, 128, 3) -> latents (batch, 16, 16, 16)."""
        pixels = to_tensor(np.stack(pictures)).to(self.vae.device)
        latents = self.vae.encode(pixels).latent_dist.mode()
        return (latents * self.vae.config.scaling_factor).cpu()

    def add(self, count: int) -> None:
        """Render and encode `count` new pictures, in whole chunks where others render."""
        for start in range(0, count, CHUNK):
            self._keep(self._samples(min(CHUNK, count - start)))

    def _samples(self, count: int) -> list[Sample]:
        if not self.executor:
            return [self.world.sample(self.rng, *self.mix) for _ in range(count)]
        while len(self.ahead) < 3 * self.renderers:
            self.chunks += 1
            self.ahead.append(self.executor.submit(self.job, (self.seed, self.chunks)))
        return self.ahead.popleft().result()

    def _keep(self, samples: list[Sample]) -> None:
        latents = self.encode([sample.picture for sample in samples])
        for latent, sample in zip(latents, samples, strict=True):
            self.latents[self.next] = latent
            places = [self.places.get(thing.item, NOBODY) for thing in sample.things]
            self.things[self.next] = torch.tensor([*places, NOBODY][:2])
            if self.next < len(self.captions):
                self.captions[self.next] = sample.caption
            else:
                self.captions.append(sample.caption)
            self.next = (self.next + 1) % CAPACITY

    def choose(self, size: int) -> np.ndarray:
        """Places of `size` random latents; renews the pool as it is used."""
        self.owed += size / REUSE
        if self.owed >= 16:
            self.add(int(self.owed))
            self.owed -= int(self.owed)
        return self.rng.integers(0, len(self.captions), size)

    def batch(self, size: int) -> tuple[torch.Tensor, list[str]]:
        """(size, 16, 16, 16) latents and their captions."""
        chosen = self.choose(size)
        return self.latents[torch.from_numpy(chosen)], [self.captions[i] for i in chosen]
