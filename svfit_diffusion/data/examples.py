"""Training examples: photos as latents, encoded once, and every random number of a training.

Sample number i of a training (photo, crop, noise, timestep) is a function of (seed, i) alone. So a
resumed training goes on exactly where it stopped, and two processes see together what one process
with twice the batch sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .reading import Photo, cut, to_tensor

LONG = 1.15  # photos longer than this times their width are cropped at three places
PLACES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Examples:
    """Encoded pictures: mean and deviation of each one's latents [c, h, w].

    variants: for each photo, the indices of its crops and mirror images, all of one size.
    captions: one per photo. frames: how each picture was cut (`frames`). masks: of each picture
    [1, h, w], 0 to 1, where the loss is weighted.
    """

    mean: Sequence[Tensor]
    deviation: Sequence[Tensor]
    variants: tuple[tuple[int, ...], ...]
    captions: tuple[str, ...]
    frames: Sequence[Tensor]
    masks: Sequence[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def shape(self, photo: int) -> tuple[int, ...]:
        """Size [c, h, w] of a photo's latents."""
        return tuple(self.mean[self.variants[photo][0]].shape)

    def only(self, photos: Sequence[int]) -> Examples:
        """Some of the photos."""
        variants, captions = (
            tuple(held[i] for i in photos) for held in (self.variants, self.captions)
        )
        return replace(self, variants=variants, captions=captions)


@dataclass(frozen=True)
class Batch:
    """Latents and noise [n, c, h, w], timesteps [n], frames [n, 6], the photos' indices, and masks
    [n, 1, h, w].
    """

    latents: Tensor
    noise: Tensor
    steps: Tensor
    frames: Tensor
    photos: tuple[int, ...]
    masks: Tensor | None = None

    def part(self, piece: slice) -> Batch:
        """Some of the pictures."""
        masks = None if self.masks is None else self.masks[piece]
        held = self.latents, self.noise, self.steps, self.frames, self.photos
        return Batch(*(values[piece] for values in held), masks)


def views(image: Image.Image, size: int | tuple[int, int], center: bool, flip: bool) -> Tensor:
    """The crops (and mirror images) of a photo or of its mask, `size` pixels square, or (height,
    width): [views, 3, height, width] in -1..1.
    """
    height, width = _sides(size)
    places = _places(image, height, width, center)
    pictures = [to_tensor(cut(image, height, width, place, place)) for place in places]
    if flip:
        pictures += [picture.flip(-1) for picture in pictures]
    return torch.stack(pictures)


def frames(image: Image.Image, size: int | tuple[int, int], center: bool, flip: bool) -> Tensor:
    """How each of the `views` of a photo was cut: [views, 6], int64, in pixels.

    Height and width of the photo; top and left of the crop in the photo scaled to cover it; height
    and width of the crop. These are the size and crop conditioning of SDXL (arXiv 2307.01952, 2.2).
    """
    height, width = _sides(size)
    scale = max(height / image.height, width / image.width)
    down, across = (
        max(0.0, scale * s - t) for s, t in ((image.height, height), (image.width, width))
    )
    places = _places(image, height, width, center)
    corners = [(place, place) for place in places] + [
        (place, 1 - place) for place in places if flip
    ]
    found = [(round(y * down), round(x * across)) for y, x in corners]
    return torch.tensor([(image.height, image.width, *corner, height, width) for corner in found])


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size."""
    return (size, size) if isinstance(size, int) else size


def _places(image: Image.Image, height: int, width: int, center: bool) -> tuple[float, ...]:
    """Where crops of height x width lie along the longer side, 0 to 1."""
    shape = image.width / image.height / (width / height)
    return (0.5,) if center or max(shape, 1 / shape) <= LONG else PLACES


@torch.no_grad()
def encode(
    photos: Sequence[Photo],
    prompt: str,
    view: Callable[[Photo], Tensor],
    frame: Callable[[Photo], Tensor],
    encoder: Callable[[Tensor], tuple[Tensor, Tensor]],
    mask: Callable[[Photo], Tensor | None] = lambda _: None,
) -> Examples:
    """Encode the views of all photos one by one, as GPUs are small; captions default to `prompt`.

    frame: how the views were cut. mask: a photo's masks [views, 1, H, W], 0 to 1, or None. They are
    averaged over the pixels of each latent; where only some photos have one, the others count
    everywhere.
    """
    means, deviations, variants, cuts, masks, count = [], [], [], [], [], 0
    for photo in photos:
        seen = [encoder(one[None]) for one in view(photo)]
        means += [mean[0].float().cpu() for mean, _ in seen]
        deviations += [deviation[0].float().cpu() for _, deviation in seen]
        cuts += frame(photo)
        found = mask(photo)
        none = [None] * len(seen)
        masks += none if found is None else F.adaptive_avg_pool2d(found, means[-1].shape[1:])
        variants.append(tuple(range(count, count + len(seen))))
        count += len(seen)
    captions = tuple(photo.caption or prompt for photo in photos)
    given = any(mask is not None for mask in masks)
    full = [torch.ones_like(m[:1]) if k is None else k for m, k in zip(means, masks, strict=True)]
    return Examples(means, deviations, tuple(variants), captions, cuts, full if given else None)


def generator(*key: object) -> torch.Generator:
    """A generator on the CPU whose stream depends on the key alone."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: object) -> int:
    """A seed, below 2^56, that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "little")


def reseed(*key: object) -> None:
    """Let PyTorch's global numbers, which dropout uses, depend on the key alone."""
    torch.manual_seed(seed_of(*key))


def photo_order(seed: int, index: int, count: int) -> int:
    """Which photo sample `index` shows: each once an epoch, in an order of the epoch's own."""
    epoch, place = divmod(index, count)
    return int(torch.randperm(count, generator=generator(seed, "epoch", epoch))[place])


def group_by_size(examples: Examples, seed: int, indices: Sequence[int]) -> list[list[int]]:
    """The sample numbers, in groups whose latents are of one size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in indices:
        shape = examples.shape(photo_order(seed, index, len(examples)))
        groups.setdefault(shape, []).append(index)
    return list(groups.values())


def sample_batch(
    examples: Examples,
    seed: int,
    indices: Sequence[int],
    steps: int,
    noise_offset: float = 0.0,
    time: Callable[[torch.Generator], Tensor] | None = None,
) -> Batch:
    """The batch of the samples with these numbers, whose latents are of one size.

    Timesteps are below `steps`; time: how one is sampled, if not uniformly.
    """
    time = time or (lambda random: torch.randint(steps, (), generator=random))
    latents, noises, times, cuts, photos, masks = [], [], [], [], [], []
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
        times.append(time(random))
        cuts.append(examples.frames[variant])
        photos.append(photo)
        masks += [] if examples.masks is None else [examples.masks[variant]]
    stacked = (torch.stack(values) for values in (latents, noises, times, cuts))
    return Batch(*stacked, tuple(photos), torch.stack(masks) if masks else None)


def fixed_noise_batches(examples: Examples, steps: int, times: int = 4) -> list[Batch]:
    """Noise that no training samples: each photo at `times` evenly spaced timesteps.

    One batch for each size of latents.
    """
    random, groups = generator("held out"), {}
    for photo in range(len(examples)):
        groups.setdefault(examples.shape(photo), []).append(photo)
    spaced, batches = ((torch.arange(times) + 0.5) / times * steps).long(), []
    for found in groups.values():
        photos = tuple(photo for photo in found for _ in range(times))
        first = [examples.variants[photo][0] for photo in photos]
        latents = torch.stack([examples.mean[i] for i in first])
        masks = examples.masks and torch.stack([examples.masks[i] for i in first])
        cuts = torch.stack([examples.frames[i] for i in first])
        noise = torch.randn(latents.shape, generator=random)
        batches.append(Batch(latents, noise, spaced.repeat(len(found)), cuts, photos, masks))
    return batches
