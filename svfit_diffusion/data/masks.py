"""Where in a photo the loss counts: a folder of masks, or the photo's own transparency.

A mask is white on the subject, black elsewhere, grey in between; it is named like its photo. The
error of a picture is its mean weighted by the mask, so a small subject counts as much as a large
one.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from ..settings import TrainConfig
from .reading import Photo, to_8_bit

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_mask(photo: Photo, config: TrainConfig) -> Image.Image | None:
    """The mask of a photo (mode L, the photo's size), or None where it counts everywhere.

    Raises ValueError for a mask that is no picture, of another shape, or black all over.
    """
    path = _find(photo.path, Path(config.mask_data_dir)) if config.mask_data_dir else None
    if path is not None:
        mask = _grey(path)
    elif config.alpha_mask and _open(photo.path).has_transparency_data:
        path, mask = photo.path, _open(photo.path).convert("RGBA").getchannel("A")
    else:
        return None
    width, height = photo.image.size
    if abs(mask.width * height - mask.height * width) > max(width, height, *mask.size):
        raise ValueError(
            f"the mask {path.name} is {mask.width} x {mask.height} px and its photo {width} x "
            f"{height}; expected the same shape."
        )
    if not mask.getbbox():
        raise ValueError(f"the mask {path.name} is black all over; paint the subject white.")
    return mask if mask.size == photo.image.size else mask.resize(photo.image.size)


def check_masks(photos: list[Photo], config: TrainConfig) -> None:
    """Refuse a folder of masks of which not one belongs to a photo."""
    folder = config.mask_data_dir
    if folder and not Path(folder).is_dir():
        raise ValueError(f"mask_data_dir {folder} is not a folder; expected one of masks.")
    if folder and not any(_find(photo.path, Path(folder)) for photo in photos):
        raise ValueError(
            f"{folder} holds no mask of these photos; a mask is named like its photo, such as "
            f"{photos[0].path.stem}.png."
        )
    if config.alpha_mask and not all(photo.path.is_file() for photo in photos):
        raise ValueError(
            "alpha_mask reads transparency from the photos' files, which those of a dataset do not "
            "have; save them into a folder and pass it as instance_data_dir."
        )


def _find(photo: Path, folder: Path) -> Path | None:
    found = (folder / f"{photo.stem}{suffix}" for suffix in SUFFIXES)
    return next((path for path in found if path.is_file()), None)


def _grey(path: Path) -> Image.Image:
    """A mask in mode L; Pillow would clip 16 bits to 255 instead of scaling them."""
    mask = _open(path)
    if not mask.mode.startswith(("I", "F")):
        return mask.convert("L")
    try:
        return to_8_bit(mask)
    except ValueError as error:
        raise ValueError(f"the mask {path.name} cannot be read ({error}).") from None


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"the mask {path.name} cannot be read ({error}).") from None
