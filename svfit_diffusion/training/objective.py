"""What a training minimises: the base's own denoising loss on the subject's pictures.

    loss = E w_t |target - predict(noisy, t, prompt)|^2      noisy = add_noise(latents, noise, t)

with noise, target and weights w_t as the base was trained (families/); where there are masks, the
mean over a picture is weighted by its mask. With prior preservation (arXiv 2208.12242) plus the
same on class images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from ..data import Batch, Examples, group_by_size, sample_batch
from ..settings import TrainConfig
from .adapted_base import AdaptedBase
from .prompt_encoder import PromptEncoder
from .subject import Subject


class Part(NamedTuple):
    """A batch of pictures of one size, the examples they are of, and their weight in the loss."""

    batch: Batch
    examples: Examples
    weight: float = 1.0

    def split(self, size: int) -> list[Part]:
        """The same pictures, in parts of at most `size`."""
        starts = range(0, len(self.batch.photos), size)
        return [self._replace(batch=self.batch.part(slice(i, i + size))) for i in starts]

    @property
    def prompts(self) -> list[str]:
        """The caption of each picture."""
        return [self.examples.captions[photo] for photo in self.batch.photos]


class Denoiser(nn.Module):
    """Text encoders and denoiser as one module: noisy latents and prompts -> prediction."""

    def __init__(self, base: AdaptedBase, guidance: float = 1.0) -> None:
        super().__init__()
        self.models = nn.ModuleDict(base.family.components(base.pipe))
        self.family, self.guidance = base.family, guidance
        # beside their text encoders, which are not trained and may be elsewhere
        vectors = {part: nn.ParameterList(base.learned_rows(part)) for part in base.outputs}
        self.vectors = nn.ModuleDict(vectors)
        self.prompt_encoder = PromptEncoder(base)
        # several processes share what is trained; frozen weights may wait in main memory
        frozen = (name for name, weight in self.named_parameters() if not weight.requires_grad)
        self._ddp_params_and_buffers_to_ignore = list(frozen)

    def forward(self, noisy: Tensor, times: Tensor, prompts: list[str], frames: Tensor) -> Tensor:
        """noisy [n, c, h, w], times [n], n prompts, frames [n, 6] -> prediction [n, c, h, w],
        float32.
        """
        denoiser = self.models[self.family.denoiser]
        text = self.prompt_encoder.encode(prompts, noisy.device)
        text |= self.family.frame_conditioning(frames)
        text = {key: value.to(denoiser.dtype) for key, value in text.items()}
        noisy = noisy.to(denoiser.dtype)
        return self.family.predict(denoiser, noisy, times, text, self.guidance).float()


class Objective:
    """The loss of a subject under a configuration; `model` is a Denoiser, prepared or not."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, base: AdaptedBase, subject: Subject
    ) -> None:
        self.config, self.accelerator, self.subject = config, accelerator, subject
        self.family = base.family
        self.scheduler = self.family.training_scheduler(base.pipe.scheduler)
        self.steps = self.scheduler.config.num_train_timesteps
        # without gradients: no more memory than a training step's
        self.eval_batch_size = min(8, 2 * config.train_batch_size)

    def loss(self, model: nn.Module, number: int) -> Tensor:
        """This process's share of the loss of batch `number`, counted from the training's start."""
        config, subject = self.config, self.subject
        start = number * self.accelerator.num_processes + self.accelerator.process_index
        first = start * config.train_batch_size
        indices = range(first, first + config.train_batch_size)
        parts = self._sample(subject.examples, config.seed, indices)
        if subject.class_examples:
            weight = config.prior_loss_weight
            parts += self._sample(subject.class_examples, config.seed + 1, indices, weight)
        total = torch.zeros((), device=self.accelerator.device)
        for group in _of_one_size(parts):
            errors, steps = self.errors(model, group)
            weights = [part.weight for part in group for _ in part.batch.photos]
            weights = torch.tensor(weights, device=errors.device)
            total = total + (errors * self.weights(steps) * weights).sum()
        return total / len(indices)

    def errors(self, model: nn.Module, parts: list[Part]) -> tuple[Tensor, Tensor]:
        """Squared error [n] and timestep [n] of each picture of parts of one size, in one pass."""
        device, family = self.accelerator.device, self.family
        batches = [part.batch for part in parts]
        latents = torch.cat([batch.latents for batch in batches]).to(device)
        noise = torch.cat([batch.noise for batch in batches]).to(device)
        steps = torch.cat([batch.steps for batch in batches]).to(device)
        frames = torch.cat([batch.frames for batch in batches]).to(device)
        prompts = [prompt for part in parts for prompt in part.prompts]
        noisy = family.add_noise(self.scheduler, latents, noise, steps)
        target = family.target(self.scheduler, latents, noise, steps)
        with self.accelerator.autocast():
            times = family.model_timesteps(self.scheduler, steps)
            predicted = model(noisy, times, prompts, frames)
        errors = F.mse_loss(predicted.float(), target.float(), reduction="none")
        if (masks := _masks(batches)) is not None:
            masks = masks.to(device)
            errors = errors * (masks / masks.mean((2, 3), keepdim=True).clamp(min=1e-6))
        return errors.mean((1, 2, 3)), steps

    def weights(self, steps: Tensor) -> Tensor:
        """The loss's weight [n] at timesteps [n]."""
        return self.family.weights(self.scheduler, steps, self.config)

    def sample_timestep(self, random: torch.Generator) -> Tensor:
        """The timestep of one picture [], as the base was trained."""
        return self.family.sample_timestep(random, self.steps, self.config)

    def noise(self, steps: Tensor) -> Tensor:
        """How much noise a picture has at timesteps [n]: the factor of the noise, [n]."""
        none = torch.zeros(len(steps), 1, 1, 1)
        return self.family.add_noise(self.scheduler, none, none + 1, steps).flatten()

    def _sample(
        self, examples: Examples, seed: int, indices: range, weight: float = 1.0
    ) -> list[Part]:
        """The samples with these numbers, a batch for each size of latents."""
        offset = self.config.noise_offset
        return [
            Part(
                sample_batch(examples, seed, group, self.steps, offset, self.sample_timestep),
                examples,
                weight,
            )
            for group in group_by_size(examples, seed, indices)
        ]


def _masks(batches: list[Batch]) -> Tensor | None:
    """The masks [n, 1, h, w] of batches of one size, ones where a batch has none; or None."""
    if all(batch.masks is None for batch in batches):
        return None
    return torch.cat([torch.ones_like(b.latents[:, :1]) if b.masks is None else b.masks
                      for b in batches])  # fmt: skip


def _of_one_size(parts: list[Part]) -> list[list[Part]]:
    """The parts in groups that go through the model together."""
    groups: dict[tuple[int, ...], list[Part]] = {}
    for part in parts:
        groups.setdefault(tuple(part.batch.latents.shape[1:]), []).append(part)
    return list(groups.values())
