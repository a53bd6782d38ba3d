"""Losses that can be compared between steps: on noise and timesteps that stay the same.

A step's loss varies with its noise and its timesteps far more than with what was learned. Here both
are fixed, and no training step samples them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..data import Examples, fixed_noise_batches, generator, group_by_size, sample_batch
from .objective import Objective, Part

SPREAD = 1_000  # timesteps that are sampled, of which evenly spaced ranks are taken


class FixedNoise:
    """Samples of photos with their noise and timesteps, and a model's loss on them."""

    def __init__(self, objective: Objective, parts: list[Part]) -> None:
        self.objective = objective
        most = objective.eval_batch_size
        self.parts = [piece for part in parts for piece in part.split(most)]

    @torch.no_grad()
    def errors(self, model: nn.Module) -> Tensor:
        """Squared error [n] of each sample, not weighted by timestep, without dropout."""
        with _evaluating(model):
            return torch.cat([self.objective.errors(model, [part])[0] for part in self.parts])

    def error(self, model: nn.Module) -> float:
        """The mean of the errors."""
        return self.errors(model).cpu().double().mean().item()  # MPS has no float64

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """The mean loss, weighted by timestep as in training, without dropout.

        All processes share the work; a sum over them gives each the same bits.
        """
        accelerator = self.objective.accelerator
        total = torch.zeros((), device=accelerator.device)
        with _evaluating(model):
            for part in self.parts[accelerator.process_index :: accelerator.num_processes]:
                errors, steps = self.objective.errors(model, [part])
                total += (errors * self.objective.weights(steps)).sum()
        total = accelerator.reduce(total, "sum")
        return total.item() / sum(len(part.batch.photos) for part in self.parts)


def each_photo(objective: Objective, examples: Examples) -> FixedNoise:
    """Each photo once at each of four evenly spaced timesteps."""
    batches = fixed_noise_batches(examples, objective.steps)
    return FixedNoise(objective, [Part(batch, examples) for batch in batches])


def samples(
    objective: Objective, examples: Examples, count: int, span: tuple[float, float] = (0.0, 1.0)
) -> FixedNoise:
    """`count` samples of these photos, their timesteps spread as the training's are.

    span: the share of those, from the least noise (0) to the most (1), that is sampled.
    """
    config, random = objective.config, generator(objective.config.seed, "fixed")
    times = torch.stack([objective.sample_timestep(random) for _ in range(SPREAD)])
    places = span[0] + (torch.arange(count) + 0.5) / count * (span[1] - span[0])
    ranks = (places * SPREAD).long()
    steps, parts = times[objective.noise(times).argsort(stable=True)][ranks], []
    unseen = -1 - config.seed  # no training has such a seed
    for group in group_by_size(examples, unseen, range(count)):
        batch = sample_batch(examples, unseen, group, objective.steps, config.noise_offset)
        parts.append(Part(replace(batch, steps=steps[group]), examples))
    return FixedNoise(objective, parts)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards in the one it was in."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True
