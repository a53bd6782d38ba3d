"""Reads the photos of a subject: decoding, cropping, pictures to tensors.

A photo is decoded once, the way a viewer shows it: upright (EXIF orientation), 8-bit sRGB, first
frame, transparency on white. A file that cannot be shown that way is refused with the reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from .captions import CaptionError, Captions, is_caption_file, match_captions

if TYPE_CHECKING:
    import torch

with contextlib.suppress(ImportError):  # optional: photos as iPhones store them
    import pillow_heif

    pillow_heif.register_heif_opener()

MAX_PIXELS = 100_000_000
"""Largest photo that is decoded, in pixels (width times height)."""

# A closed list: Pillow would also hand a file to Ghostscript (EPS) or to rarely tested decoders.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")

# Pillow scales these PNG samples to 8 bits but leaves the transparent colour as it was.
_PNG_KEY = {
    "L;2": lambda value: value * 85,
    "L;4": lambda value: value * 17,
    "I;16B": lambda value: value >> 8,
    "RGB;16B": lambda value: tuple(channel >> 8 for channel in value),
}


@dataclass(frozen=True)
class Photo:
    """One usable photo: where it came from, its pixels (RGB, upright) and its caption."""

    path: Path
    image: Image.Image
    caption: str | None


@dataclass(frozen=True)
class Skipped:
    """One file that is not used, and why (one sentence that names the file)."""

    path: Path
    reason: str


class _Refused(ValueError):
    """A file that is in order but that we do not use; the message says why and what to do."""


def read_photo(path: str | Path, captions: Captions | None = None) -> Photo:
    """Decode one photo, with its caption among those of captions.py, if it has one there.

    Raises ValueError, naming the file and the reason, when there is no such file, it is no
    picture, is damaged, has more than MAX_PIXELS pixels or holds 32-bit samples, or when its
    caption cannot be used.
    """
    path, captions = Path(path), captions or Captions()
    try:
        if path in captions.broken:
            raise CaptionError(captions.broken[path])
        return Photo(path, _decode(path), captions.texts.get(path))
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise ValueError(f"{path.name} cannot be used: {_reason(path, error)}.") from error


def read_bytes(path: Path, file: BinaryIO, caption: str | None) -> Photo:
    """Decode a photo that is no file of its own. path: what it is called. As `read_photo`."""
    try:
        return Photo(path, _open(file), caption or None)
    except Exception as error:
        raise ValueError(f"{path} cannot be used: {_reason(path, error)}.") from error


def read_folder(
    folder: str | Path, caption_column: str | None = None, most: int | None = None
) -> tuple[list[Photo], list[Skipped]]:
    """Read every photo directly in `folder`, sorted by file name, and list what was skipped.

    Sub-folders and hidden files are passed over in silence. caption_column: of metadata.jsonl or
    metadata.csv. most: stop after so many photos. Raises ValueError when `folder` is no folder or
    holds not one usable photo.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}: expected a folder of photos; check the path.")
    photos: list[Photo] = []
    skipped: list[Skipped] = []
    names = sorted(folder.iterdir(), key=lambda path: path.name)
    files = [path for path in names if not path.name.startswith(".") and not path.is_dir()]
    texts = [path for path in files if is_caption_file(path)]
    pictures = [path for path in files if not is_caption_file(path)]
    captions = match_captions(pictures, texts, caption_column)
    for path in pictures:
        if len(photos) == most:
            break
        try:
            photos.append(read_photo(path, captions))
        except ValueError as error:
            skipped.append(Skipped(path, str(error)))
    if not photos:
        reasons = "; ".join(item.reason.rstrip(".") for item in skipped[:3])
        raise ValueError(
            f"{folder} holds no usable photo: expected at least one JPEG or PNG; "
            f"{reasons or 'put the photos directly into this folder'}."
        )
    skipped += [Skipped(path, f"{reason}.") for path, reason in captions.unused.items()]
    return photos, skipped


def photo_suffixes() -> frozenset[str]:
    """Endings of files, in lower case, that are read as photos."""
    Image.init()
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in FORMATS)


def photos_digest(photos: list[Photo]) -> str:
    """Hash (hex, 128 bits) over the pixels and captions of photos, in their order."""
    found = hashlib.sha256()
    for photo in photos:
        found.update(f"{photo.image.size}|{photo.caption!r}|".encode())
        found.update(photo.image.tobytes())
    return found.hexdigest()[:32]


def crop(
    image: Image.Image, resolution: int, center: bool = True, x: float = 0.5, y: float = 0.5
) -> Image.Image:
    """Cut the largest square and scale it (Lanczos) to `resolution` x `resolution` pixels.

    image: RGB, any size. resolution: pixels, a positive multiple of 8. x, y: 0..1, where the
    square lies along the longer side (0 left or top, 1 right or bottom); `center` stands for
    x = y = 0.5 and overrides them. Raises ValueError for numbers outside these ranges.
    """
    if not isinstance(resolution, int) or resolution <= 0 or resolution % 8:
        raise ValueError(
            f"resolution is {resolution!r}: expected a positive multiple of 8, such as 512."
        )
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"the crop lies at x = {x}, y = {y}: expected two numbers from 0 to 1.")
    if center:
        x = y = 0.5
    return cut(image, resolution, resolution, x, y)


def cut(image: Image.Image, height: int, width: int, x: float, y: float) -> Image.Image:
    """Cut the largest part of the shape height : width and scale it (Lanczos) to that size.

    x, y: 0..1, where it lies along the side that is cut (0 left or top, 1 right or bottom).
    """
    across = min(image.width, image.height * width / height)
    down = min(image.height, image.width * height / width)
    left, top = x * (image.width - across), y * (image.height - down)
    # One step: scaling the whole of a 1 x 10,000 strip first would fill the memory.
    return image.resize(
        (width, height), Image.Resampling.LANCZOS, (left, top, left + across, top + down)
    )


def edge_colours(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The median colours [3], 0..255, along the top and the bottom edge of a picture."""
    rows = np.asarray(image)
    depth = math.ceil(len(rows) / 16)
    return tuple(np.median(part.reshape(-1, 3), 0) for part in (rows[:depth], rows[-depth:]))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image of H x W pixels -> float32 tensor [3, H, W]; 0 becomes -1 and 255 becomes 1."""
    import torch  # here, so that looking at photos needs no torch

    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


def _reason(path: Path, error: Exception) -> str:
    """What `error` says about the file, and what to do, as the rest of a sentence."""
    if isinstance(error, _Refused | CaptionError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels; scale it down first"
    if isinstance(error, UnidentifiedImageError):
        if path.suffix.lower() in (".heic", ".heif") and "HEIF" not in Image.OPEN:
            return "it needs the HEIC reader; run `pip install pillow-heif` or export it as JPEG"
        return "it is no picture in a known format; save it as JPEG or PNG"
    problem = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"its content is damaged or unknown ({problem}); export it again or leave it out"


def _decode(path: Path) -> Image.Image:
    if not path.is_file():
        raise _Refused("there is no such file; check the path")
    return _open(path)


def _open(file: Path | BinaryIO) -> Image.Image:
    """First frame of a file as an upright RGB image on white, free of metadata."""
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    with warnings.catch_warnings():  # our limit speaks below, as an error
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(file, formats=formats)
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if image.format == "PNG" and "transparency" in image.info:
            key = _PNG_KEY.get(image.tile[0][3], lambda value: value)
            image.info["transparency"] = key(image.info["transparency"])
        image = _to_rgb(ImageOps.exif_transpose(image))
    image.info = {}  # the pixels are sRGB now; place and time of the shot stay private
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB: 16 bits to 8, colours to sRGB, transparent parts to white."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = to_8_bit(image)
    profile = image.info.get("icc_profile")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if profile:
        image = _to_srgb(image, profile)
    image = image.convert("RGB")
    if alpha is None:
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return white


def to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey (modes I;16, I;16B, and I with values up to 65,535) -> L, by its high byte."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise _Refused("its samples have 32 bits; save it with 8 or 16 bits")
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    grey.info = image.info
    return grey


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Apply a colour profile; an unreadable or unfitting one is ignored, as viewers do."""
    if image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return image
