"""Training examples: photos as latents, encoded once, and every random number of a training.

Sample number i of a training (photo, crop, noise, time step) is a function of (seed, i) alone. So a
resumed training goes on exactly where it stopped, and two processes see together what one process
with twice the batch sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .photos import Photo, crop, to_tensor

LONG = 1.15  # photos longer than this times their width are cropped at three places
PLACES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Examples:
    """Encoded pictures: mean and deviation of the latents, each [pictures, c, h, w], by photo.

    variants: for each photo, the indices of its crops and mirror images. captions: one per photo.
    """

    mean: Tensor
    deviation: Tensor
    variants: tuple[tuple[int, ...], ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class Batch:
    """Latents and noise [n, c, h, w], time steps [n], and the photos' indices."""

    latents: Tensor
    noise: Tensor
    steps: Tensor
    photos: tuple[int, ...]


def views(photo: Photo, resolution: int, center: bool, flip: bool) -> Tensor:
    """The crops (and mirror images) of a photo: [views, 3, resolution, resolution] in -1..1."""
    width, height = photo.image.size
    square = max(width, height) <= LONG * min(width, height)
    places = (0.5,) if center or square else PLACES
    pictures = [
        to_tensor(crop(photo.image, resolution, center=False, x=place, y=place)) for place in places
    ]
    if flip:
        pictures += [picture.flip(-1) for picture in pictures]
    return torch.stack(pictures)


@torch.no_grad()
def encode(
    photos: Sequence[Photo],
    prompt: str,
    view: Callable[[Photo], Tensor],
    encoder: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Examples:
    """Encode the views of all photos, one photo at a time; captions default to `prompt`."""
    means, deviations, variants, count = [], [], [], 0
    for photo in photos:
        mean, deviation = encoder(view(photo))
        means.append(mean.float().cpu())
        deviations.append(deviation.float().cpu())
        variants.append(tuple(range(count, count + len(mean))))
        count += len(mean)
    captions = tuple(photo.caption or prompt for photo in photos)
    return Examples(torch.cat(means), torch.cat(deviations), tuple(variants), captions)


def generator(*key: object) -> torch.Generator:
    """A generator on the CPU whose stream depends on the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def photo_order(seed: int, index: int, count: int) -> int:
    """Which photo sample `index` shows: each once an epoch, in an order of the epoch's own."""
    epoch, place = divmod(index, count)
    return int(torch.randperm(count, generator=generator(seed, "epoch", epoch))[place])


def draw(
    examples: Examples, seed: int, indices: Sequence[int], steps: int, noise_offset: float = 0.0
) -> Batch:
    """The batch of the samples with these numbers; time steps are below `steps`."""
    latents, noises, times, photos = [], [], [], []
    for index in indices:
        random = generator(seed, "sample", index)
        photo = photo_order(seed, index, len(examples))
        choices = examples.variants[photo]
        variant = choices[int(torch.randint(len(choices), (), generator=random))]
        mean, deviation = examples.mean[variant], examples.deviation[variant]
        latents.append(mean + deviation * torch.randn(mean.shape, generator=random))
        noise = torch.randn(mean.shape, generator=random)
        if noise_offset:
            noise += noise_offset * torch.randn(len(mean), 1, 1, generator=random)
        noises.append(noise)
        times.append(torch.randint(steps, (), generator=random))
        photos.append(photo)
    return Batch(torch.stack(latents), torch.stack(noises), torch.stack(times), tuple(photos))


def held_out(examples: Examples, steps: int, times: int = 4) -> Batch:
    """Noise that no training draws: each photo at `times` evenly spaced time steps."""
    count, random = len(examples), generator("held out")
    photos = tuple(i for i in range(count) for _ in range(times))
    latents = examples.mean[[examples.variants[i][0] for i in photos]]
    noise = torch.randn(latents.shape, generator=random)
    spaced = (torch.arange(times) + 0.5) / times * steps
    return Batch(latents, noise, spaced.long().repeat(count), photos)
