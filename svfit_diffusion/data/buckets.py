"""Aspect-ratio buckets: photos keep their shape, each cropped to the nearest of a few sizes.

The sizes are diffusers' (training_utils): near resolution^2 pixels, between 9:16 and 16:9 or so. A
photo smaller than its bucket is enlarged, as without buckets.
"""

from __future__ import annotations

import warnings

from PIL import Image

from ..settings import TrainConfig


def find_buckets(config: TrainConfig, resolution: int, multiple: int) -> list[tuple[int, int]]:
    """(height, width) of the pictures that a training may have, in pixels.

    multiple: what heights and widths must be a multiple of. Raises ValueError where they are not.
    """
    from diffusers.training_utils import generate_aspect_ratio_buckets, parse_buckets_string

    if not config.use_aspect_ratio_buckets:
        sizes = [(resolution, resolution)]
    elif config.aspect_ratio_buckets:
        try:
            with warnings.catch_warnings():  # of multiples of 8: ours are checked below
                warnings.simplefilter("ignore")
                sizes = parse_buckets_string(config.aspect_ratio_buckets)
        except ValueError:
            raise ValueError(
                f"aspect_ratio_buckets is {config.aspect_ratio_buckets!r}; expected heights and "
                "widths such as '1024,1024;768,1344'."
            ) from None
    else:
        sizes = generate_aspect_ratio_buckets(resolution, multiple)
    for size in sizes:
        if any(side % multiple for side in size):
            raise ValueError(
                f"training pictures of {size[1]} x {size[0]} px are not possible on this base; "
                f"sides must be multiples of {multiple}."
            )
    return sizes


def nearest(buckets: list[tuple[int, int]], image: Image.Image) -> tuple[int, int]:
    """The bucket (height, width) whose shape is nearest to the picture's."""
    ratio = image.width / image.height

    def stretch(size: tuple[int, int]) -> float:
        shape = size[1] / size[0] / ratio
        return max(shape, 1 / shape)

    return min(buckets, key=stretch)
