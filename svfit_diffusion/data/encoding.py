"""Photos of a training -> examples: cut to their buckets, with their masks, through the VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL.Image import Image
from torch import Tensor

from ..families import Family
from ..settings import TrainConfig
from .buckets import find_buckets, nearest
from .examples import Examples, encode, frames, views
from .masks import check_masks, read_mask
from .reading import Photo


def photo_encoder(
    config: TrainConfig, pipe: Any, family: Family, size: int
) -> Callable[..., Examples]:
    """What encodes photos: called with them, the caption of those without one, and `masked`.

    size: pixels of a square picture. Raises ValueError where buckets or masks cannot be used.
    """
    buckets = find_buckets(config, size, family.size_multiple(pipe))

    def seen(image: Image) -> Tensor:
        near = nearest(buckets, image)
        return views(image, near, config.center_crop, config.random_flip)

    def frame(photo: Photo) -> Tensor:
        near = nearest(buckets, photo.image)
        return frames(photo.image, near, config.center_crop, config.random_flip)

    def mask(photo: Photo) -> Tensor | None:
        found = read_mask(photo, config)
        return None if found is None else seen(found)[:, :1] / 2 + 0.5

    def encoded(photos: list[Photo], caption: str, masked: bool = False) -> Examples:
        if masked:
            check_masks(photos, config)
        return encode(
            photos,
            caption,
            lambda photo: seen(photo.image),
            frame,
            lambda pixels: family.encode_images(pipe.vae, pixels.to(pipe.vae.device)),
            mask if masked else lambda _: None,
        )

    return encoded
