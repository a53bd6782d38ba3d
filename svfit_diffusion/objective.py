"""What a training minimises: the base's own denoising loss on the subject's pictures.

    loss = E w_t |target - predict(noisy, t, prompt)|^2      noisy = add_noise(latents, noise, t)

with noise, target and weights w_t as the base was trained (families/); where there are masks, the
mean over a picture is weighted by its mask. With prior preservation (arXiv 2208.12242) plus the
same on class images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from .examples import Batch, Examples, alike, draw, generator, held_out, reseed
from .settings import TrainConfig
from .subject import Subject

SPREAD = 1_000  # time steps drawn, of which evenly spaced ranks are taken
Part = tuple[Batch, Examples, float]  # a batch, what it is of, and its weight in the loss


class Denoiser(nn.Module):
    """Text encoders and denoiser as one module: noisy latents and prompts -> prediction."""

    def __init__(self, subject: Subject, guidance: float = 1.0) -> None:
        super().__init__()
        self.models = nn.ModuleDict(subject.family.components(subject.pipe))
        self.subject, self.guidance = subject, guidance

    def forward(self, noisy: Tensor, times: Tensor, prompts: list[str]) -> Tensor:
        """noisy [n, c, h, w], times [n], n prompts -> prediction [n, c, h, w], float32."""
        family = self.subject.family
        denoiser = self.models[family.denoiser]
        text = self.subject.encode_prompts(prompts, noisy.device)
        text = {key: value.to(denoiser.dtype) for key, value in text.items()}
        noisy = noisy.to(denoiser.dtype)
        return family.predict(denoiser, noisy, times, text, self.guidance).float()


class Objective:
    """The loss of a subject under a configuration; `model` is a Denoiser, prepared or not."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, subject: Subject) -> None:
        self.config, self.accelerator, self.subject = config, accelerator, subject
        self.family = subject.family
        self.noise = self.family.noise(subject.pipe.scheduler)
        self.steps = self.noise.config.num_train_timesteps
        # without gradients: no more memory than a training step's
        self.at_once = min(8, 2 * config.train_batch_size)

    def loss(self, model: nn.Module, number: int) -> Tensor:
        """This process's share of the loss of batch `number`, counted from the training's start."""
        config, subject = self.config, self.subject
        start = number * self.accelerator.num_processes + self.accelerator.process_index
        first = start * config.train_batch_size
        indices = range(first, first + config.train_batch_size)
        parts = self._drawn(subject.examples, config.seed, indices, 1.0)
        if subject.class_examples:
            weight = config.prior_loss_weight
            parts += self._drawn(subject.class_examples, config.seed + 1, indices, weight)
        total = torch.zeros((), device=self.accelerator.device)
        for group in _of_one_size(parts):
            errors, steps = self._errors(model, group)
            errors = errors * self.family.weights(self.noise, steps, config)
            weights = [weight for batch, _, weight in group for _ in batch.photos]
            total = total + (errors * torch.tensor(weights, device=errors.device)).sum()
        return total / len(indices)

    def _drawn(self, examples: Examples, seed: int, indices: range, weight: float) -> list[Part]:
        """Batches of these samples, one for each size of latents."""
        config = self.config

        def time(random: torch.Generator) -> Tensor:
            return self.family.draw_step(random, self.steps, config)

        return [
            (draw(examples, seed, group, self.steps, config.noise_offset, time), examples, weight)
            for group in alike(examples, seed, indices)
        ]

    @torch.no_grad()
    def held_out_loss(self, model: nn.Module) -> float:
        """Mean error of the photos, not weighted by time, on noise that no step draws."""
        examples, total, count = self.subject.examples, 0.0, 0
        reseed("held out")
        for batch in held_out(examples, self.steps):
            count += len(batch.photos)
            for i in range(0, len(batch.photos), self.at_once):
                part = batch.part(slice(i, i + self.at_once))
                total += self._errors(model, [(part, examples, 1.0)])[0].sum().item()
        return total / count

    def fixed(self, examples: Examples, count: int) -> list[Part]:
        """`count` samples of these photos that no step draws, in batches, to be looked at often.

        Their time steps are spread evenly over those that the training draws.
        """
        config, random = self.config, generator(self.config.seed, "fixed")
        drawn = [self.family.draw_step(random, self.steps, config) for _ in range(SPREAD)]
        ranks = ((torch.arange(count) + 0.5) / count * SPREAD).long()
        steps, parts = torch.stack(drawn).sort().values[ranks], []
        unseen = -1 - config.seed  # no training has such a seed
        for group in alike(examples, unseen, range(count)):
            batch = draw(examples, unseen, group, self.steps, config.noise_offset)
            batch = replace(batch, steps=steps[group])
            for i in range(0, len(group), self.at_once):
                parts.append((batch.part(slice(i, i + self.at_once)), examples, 1.0))
        return parts

    @torch.no_grad()
    def errors(self, model: nn.Module, parts: list[Part]) -> Tensor:
        """Error [n] of each fixed sample, not weighted by time, without dropout."""
        with _evaluating(model):
            return torch.cat([self._errors(model, [part])[0] for part in parts])

    @torch.no_grad()
    def fixed_loss(self, model: nn.Module, parts: list[Part]) -> float:
        """The mean loss of fixed samples, without dropout.

        All processes share the work; a sum over them gives each the same bits.
        """
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        total = torch.zeros((), device=self.accelerator.device)
        with _evaluating(model):
            for part in parts[process::processes]:
                errors, steps = self._errors(model, [part])
                total += (errors * self.family.weights(self.noise, steps, self.config)).sum()
        total = self.accelerator.reduce(total, "sum")
        return total.item() / sum(len(batch.photos) for batch, _, _ in parts)

    def _errors(self, model: nn.Module, parts: list[Part]) -> tuple[Tensor, Tensor]:
        """Squared error [n] and time step [n] of each picture of the batches, in one pass."""
        device, family = self.accelerator.device, self.family
        latents = torch.cat([batch.latents for batch, _, _ in parts]).to(device)
        noise = torch.cat([batch.noise for batch, _, _ in parts]).to(device)
        steps = torch.cat([batch.steps for batch, _, _ in parts]).to(device)
        prompts = [examples.captions[i] for batch, examples, _ in parts for i in batch.photos]
        noisy = family.add_noise(self.noise, latents, noise, steps)
        target = family.target(self.noise, latents, noise, steps)
        with self.accelerator.autocast():
            predicted = model(noisy, family.times(self.noise, steps), prompts)
        errors = F.mse_loss(predicted.float(), target.float(), reduction="none")
        if all(batch.masks is None for batch, _, _ in parts):
            return errors.mean((1, 2, 3)), steps
        full = [
            torch.ones_like(b.latents[:, :1]) if b.masks is None else b.masks for b, _, _ in parts
        ]
        masks = torch.cat(full).to(device)
        shares = masks / masks.mean((2, 3), keepdim=True).clamp(min=1e-6)
        return (errors * shares).mean((1, 2, 3)), steps


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


def _of_one_size(parts: list[Part]) -> list[list[Part]]:
    """The parts in groups that go through the model together."""
    groups: dict[tuple[int, ...], list[Part]] = {}
    for part in parts:
        groups.setdefault(tuple(part[0].latents.shape[1:]), []).append(part)
    return list(groups.values())
