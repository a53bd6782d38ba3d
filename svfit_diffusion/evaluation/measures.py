"""Is it the subject, and is it what was asked for? The measures of a concept.

All of them compare features of pictures (features.py) by their cosine:

    fidelity    mean over generations of the mean cosine with the subject's reference pictures,
                shifted and scaled so that the base without concept has 0 and the references among
                themselves have 1
    copy        mean over generations of the largest cosine with a training photo; where it lies
                above what the references reach among themselves, photos were memorised
    alignment   mean cosine of a picture and its prompt, by a model that knows texts (CLIP-T)
    drift       1 - mean cosine of a picture with and without the concept, on prompts that do not
                name the subject, at equal seeds
    diversity   1 - mean cosine between the seeds of a prompt

and `denoising_loss` is the base's own training loss on unseen pictures: cheap, smooth, for sweeps.
Raw DINO, CLIP-I and CLIP-T are as in DreamBooth (arXiv 2208.12242).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data import crop, generator, to_tensor
from ..families import recognise
from ..pipeline import convert_prompt


@dataclass(frozen=True)
class Likeness:
    """fidelity: normalised. raw, base, real: the cosines it was made of. copy: see the module."""

    fidelity: float
    raw: float
    base: float
    real: float
    copy: float


def cosines(pictures: Tensor, others: Tensor) -> Tensor:
    """Mean cosine of each of the unit features [n, width] with all of [m, width]: [n]."""
    return (pictures @ others.T).mean(1)


def among(pictures: Tensor) -> float:
    """Mean cosine between different ones of n unit features; ValueError for fewer than two."""
    count = len(pictures)
    if count < 2:
        raise ValueError(
            f"{count} picture cannot be compared with others of its kind; pass at least two."
        )
    return float(((pictures @ pictures.T).sum() - count) / (count * (count - 1)))


def likeness(generated: Tensor, base: Tensor, references: Tensor, training: Tensor) -> Likeness:
    """Fidelity and copy score from unit features.

    generated, base: pictures with and without the concept, [n, width] each; references: real
    pictures of the subject, at least two; training: the photos it was learned from.
    """
    raw, zero, one = (
        float(cosines(generated, references).mean()),
        float(cosines(base, references).mean()),
        among(references),
    )
    if one <= zero:
        raise ValueError(
            f"the references are no more alike ({one:.3f}) than the base's pictures are like them "
            f"({zero:.3f}), so fidelity has no scale; use pictures that show the subject better, "
            "or masks."
        )
    copy = float((generated @ training.T).amax(1).mean())
    return Likeness((raw - zero) / (one - zero), raw, zero, one, copy)


def alignment(pictures: Tensor, prompts: Tensor) -> float:
    """Mean cosine of each picture with its own prompt, both [n, width]."""
    return float((pictures * prompts).sum(1).mean())


def drift(with_concept: Tensor, without: Tensor) -> float:
    """1 - mean cosine of pictures of equal prompt and seed, [n, width] each; 0 is no drift."""
    return 1 - float((with_concept * without).sum(1).mean())


def diversity(pictures: Tensor, seeds: int) -> float:
    """1 - mean cosine between the `seeds` pictures of each prompt, which lie side by side."""
    return 1 - float(np.mean([among(group) for group in pictures.split(seeds)]))


def masked(image: Image.Image, mask: Image.Image, margin: float = 0.05) -> Image.Image:
    """The object alone, on white, cut to its box and a margin (a share of the box's longer side).

    mask: any size, light on the object. Raises ValueError where it is empty.
    """
    mask = mask.convert("L").resize(image.size).point(lambda value: 255 if value > 127 else 0)
    if (box := mask.getbbox()) is None:
        raise ValueError("the mask is black all over; it must be white where the subject is.")
    alone = Image.new("RGB", image.size, "white")
    alone.paste(image, mask=mask)
    border = round(margin * max(box[2] - box[0], box[3] - box[1]))
    left, top, right, bottom = box
    return alone.crop((
        max(left - border, 0), max(top - border, 0),
        min(right + border, image.width), min(bottom + border, image.height),
    ))  # fmt: skip


@torch.no_grad()
def denoising_loss(
    pipe: Any, pictures: Sequence[Image.Image], prompts: Sequence[str], times: int = 8
) -> float:
    """The base's denoising error on pictures, each with its prompt, at fixed noise and time steps.

    Concepts on the pipeline count, and their triggers. times: time steps a picture, evenly spaced.
    """
    family, total = recognise(pipe), 0.0
    denoiser = getattr(pipe, family.denoiser)
    scheduler, side = family.training_scheduler(pipe.scheduler), family.size(pipe)
    spaced = (torch.arange(times) + 0.5) / times * scheduler.config.num_train_timesteps
    for index, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        pixels = to_tensor(crop(picture.convert("RGB"), side))[None]
        mean, _ = family.encode_images(pipe.vae, pixels.to(pipe.vae.device, pipe.vae.dtype))
        latents = mean.float().cpu().repeat(times, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator("evaluate", index))
        steps = spaced.long()
        noisy, target = (t.to(denoiser.device) for t in (
            family.add_noise(scheduler, latents, noise, steps),
            family.target(scheduler, latents, noise, steps),
        ))  # fmt: skip
        ids = family.tokenize(pipe, convert_prompt(pipe, [prompt] * times))
        read = family.encode_frozen(pipe, [prompt] * times, denoiser.device)
        text = family.encode_text(pipe, tuple(i.to(denoiser.device) for i in ids), read)
        text = {key: value.to(denoiser.dtype) for key, value in text.items()}
        found = family.predict(
            denoiser, noisy.to(denoiser.dtype),
            family.model_timesteps(scheduler, steps.to(denoiser.device)), text,
        )  # fmt: skip
        total += float(F.mse_loss(found.float(), target))
    return total / len(prompts)
