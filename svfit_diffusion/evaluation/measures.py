"""The measures of a concept: likeness to the subject, and what else the pictures show.

All of them are cosines of features of pictures (features.py):

    fidelity    mean over generated pictures of the mean cosine with the subject's reference
                pictures, shifted and scaled so that the base without a concept has 0 and the
                references among themselves have 1
    copy        mean over generated pictures of the largest cosine with a training photo; photos
                were memorised if it exceeds the cosines of the references among themselves
    alignment   mean cosine of a picture and its prompt, by a model of pictures and texts (CLIP-T)
    drift       1 - mean cosine of pictures with and without the concept, with the same seed and a
                prompt that does not name the subject
    diversity   1 - mean cosine between the seeds of a prompt

`denoising_loss` is the base's own training loss on unseen pictures: cheap and smooth, for sweeps.
The raw cosines of DINO, CLIP-I and CLIP-T are those of DreamBooth (arXiv 2208.12242).
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

from ..data import crop, frames, generator, to_tensor
from ..families import recognise
from ..pipeline import convert_prompt


@dataclass(frozen=True)
class Likeness:
    """fidelity: normalised. raw, base, real: the cosines behind it. copy: see the module."""

    fidelity: float
    raw: float
    base: float
    real: float
    copy: float


def cosines(pictures: Tensor, others: Tensor) -> Tensor:
    """Mean cosine of each unit feature [n, width] with all others [m, width]: [n]."""
    return (pictures @ others.T).mean(1)


def among(pictures: Tensor) -> float:
    """Mean cosine of all pairs of n unit features. Raises ValueError for fewer than two."""
    count = len(pictures)
    if count < 2:
        raise ValueError(
            f"{count} picture cannot be compared with others of the subject; pass at least two."
        )
    return float(((pictures @ pictures.T).sum() - count) / (count * (count - 1)))


def likeness(generated: Tensor, base: Tensor, references: Tensor, training: Tensor) -> Likeness:
    """Fidelity and copy score from unit features.

    generated, base: of pictures with and without the concept, [n, width] each. references: of at
    least two real pictures of the subject. training: of the photos it was learned from.
    """
    raw, zero, one = (
        float(cosines(generated, references).mean()),
        float(cosines(base, references).mean()),
        among(references),
    )
    if one <= zero:
        raise ValueError(
            f"the references are no more similar to each other ({one:.3f}) than to the base's "
            f"pictures ({zero:.3f}), so fidelity has no scale; use pictures that show the subject "
            "better, or masks."
        )
    copy = float((generated @ training.T).amax(1).mean())
    return Likeness((raw - zero) / (one - zero), raw, zero, one, copy)


def alignment(pictures: Tensor, prompts: Tensor) -> float:
    """Mean cosine of each picture with its own prompt, both [n, width]."""
    return float((pictures * prompts).sum(1).mean())


def drift(with_concept: Tensor, without: Tensor) -> float:
    """1 - mean cosine of pictures with the same prompt and seed, [n, width] each; 0: no drift."""
    return 1 - float((with_concept * without).sum(1).mean())


def diversity(pictures: Tensor, seeds: int) -> float:
    """1 - mean cosine between the `seeds` pictures of each prompt, which are consecutive."""
    return 1 - float(np.mean([among(group) for group in pictures.split(seeds)]))


def masked(image: Image.Image, mask: Image.Image, margin: float = 0.05) -> Image.Image:
    """The object on white, cropped to its box and a margin (a fraction of the box's longer side).

    mask: of any size, white on the object. Raises ValueError for an empty mask.
    """
    mask = mask.convert("L").resize(image.size).point(lambda value: 255 if value > 127 else 0)
    if (box := mask.getbbox()) is None:
        raise ValueError("the mask is completely black; it must be white where the subject is.")
    cut = Image.new("RGB", image.size, "white")
    cut.paste(image, mask=mask)
    border = round(margin * max(box[2] - box[0], box[3] - box[1]))
    left, top, right, bottom = box
    return cut.crop((
        max(left - border, 0), max(top - border, 0),
        min(right + border, image.width), min(bottom + border, image.height),
    ))  # fmt: skip


@torch.no_grad()
def denoising_loss(
    pipe: Any, pictures: Sequence[Image.Image], prompts: Sequence[str], times: int = 8
) -> float:
    """The denoising error on pictures, each with its prompt, for fixed noise and timesteps.

    Concepts on the pipeline are in effect, with their triggers. times: timesteps per picture,
    evenly spaced.
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
        cut = frames(picture, side, center=True, flip=False).repeat(times, 1)
        text |= family.frame_conditioning(cut.to(denoiser.device))
        text = {key: value.to(denoiser.dtype) for key, value in text.items()}
        found = family.predict(
            denoiser, noisy.to(denoiser.dtype),
            family.model_timesteps(scheduler, steps.to(denoiser.device)), text,
        )  # fmt: skip
        total += float(F.mse_loss(found.float(), target))
    return total / len(prompts)
