"""What a training minimises: the base's own denoising loss on the subject's pictures.

    loss = E |target - predict(noisy, t, prompt)|^2      noisy = add_noise(latents, noise, t)

with target = noise or velocity, as the base was trained; weighted by min-SNR where asked for, plus
the same on class images (prior preservation, arXiv 2208.12242).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from .examples import Batch, Examples, draw, held_out
from .settings import TrainConfig
from .subject import Subject

HELD_OUT_BATCH = 8


class Denoiser(nn.Module):
    """Text encoder and denoiser as one module: noisy latents and prompts -> prediction."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.models = nn.ModuleDict(subject.family.components(subject.pipe))
        self.subject = subject

    def forward(self, noisy: Tensor, steps: Tensor, prompts: list[str]) -> Tensor:
        """noisy [n, c, h, w], steps [n], n prompts -> prediction [n, c, h, w], float32."""
        family = self.subject.family
        denoiser = self.models[family.denoiser]
        text = self.subject.encode_prompts(prompts, noisy.device)
        text = {key: value.to(denoiser.dtype) for key, value in text.items()}
        return family.predict(denoiser, noisy.to(denoiser.dtype), steps, text).float()


class Objective:
    """The loss of a subject under a configuration; `model` is a Denoiser, prepared or not."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, subject: Subject) -> None:
        self.config, self.accelerator, self.subject = config, accelerator, subject
        self.noise = subject.pipe.scheduler
        self.steps = self.noise.config.num_train_timesteps

    def loss(self, model: nn.Module, number: int) -> Tensor:
        """This process's share of the loss of batch `number`, counted from the training's start."""
        config, subject = self.config, self.subject
        start = number * self.accelerator.num_processes + self.accelerator.process_index
        first = start * config.train_batch_size
        indices = range(first, first + config.train_batch_size)
        batch = draw(subject.examples, config.seed, indices, self.steps, config.noise_offset)
        parts, weights = [(batch, subject.examples)], [1.0] * len(indices)
        if subject.class_examples:
            examples, seed = subject.class_examples, config.seed + 1
            prior = draw(examples, seed, indices, self.steps, config.noise_offset)
            parts.append((prior, examples))
            weights += [config.prior_loss_weight] * len(indices)
        errors, steps = self._errors(model, parts)
        errors = errors * self._snr_weights(steps)
        return (errors * torch.tensor(weights, device=errors.device)).sum() / len(indices)

    @torch.no_grad()
    def held_out_loss(self, model: nn.Module) -> float:
        """Mean unweighted error of the photos on noise that no step draws."""
        examples = self.subject.examples
        batch, total = held_out(examples, self.steps), 0.0
        for i in range(0, len(batch.photos), HELD_OUT_BATCH):
            piece = slice(i, i + HELD_OUT_BATCH)
            part = Batch(
                batch.latents[piece], batch.noise[piece], batch.steps[piece], batch.photos[piece]
            )
            total += self._errors(model, [(part, examples)])[0].sum().item()
        return total / len(batch.photos)

    def _errors(
        self, model: nn.Module, parts: Sequence[tuple[Batch, Examples]]
    ) -> tuple[Tensor, Tensor]:
        """Squared error [n] and time step [n] of each picture of the batches, in one pass."""
        device = self.accelerator.device
        latents = torch.cat([batch.latents for batch, _ in parts]).to(device)
        noise = torch.cat([batch.noise for batch, _ in parts]).to(device)
        steps = torch.cat([batch.steps for batch, _ in parts]).to(device)
        prompts = [examples.captions[i] for batch, examples in parts for i in batch.photos]
        noisy = self.noise.add_noise(latents, noise, steps)
        target = self.subject.family.target(self.noise, latents, noise, steps)
        with self.accelerator.autocast():
            predicted = model(noisy, steps, prompts)
        errors = F.mse_loss(predicted.float(), target.float(), reduction="none")
        return errors.mean((1, 2, 3)), steps

    def _snr_weights(self, steps: Tensor) -> Tensor:
        """Min-SNR weights (arXiv 2303.09556) [n], or ones."""
        gamma = self.config.snr_gamma
        if gamma is None:
            return torch.ones(len(steps), device=steps.device)
        snr = compute_snr(self.noise, steps)
        shift = 1.0 if self.noise.config.prediction_type == "v_prediction" else 0.0
        return snr.clamp(max=gamma) / (snr + shift).clamp(min=1e-8)
