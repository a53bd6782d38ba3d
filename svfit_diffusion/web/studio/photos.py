"""Photos as a user drops them: which can be used, and what the model will see of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ...concept import printable
from ...data import (
    CAPTION,
    LONG,
    PLACES,
    Captions,
    crop,
    is_caption_file,
    match_captions,
    read_photo,
)
from ...generation import save_png
from ...settings import RARE_WORDS

SUFFIXES = [
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tif", ".tiff"),
]
MAX_PHOTOS = 50
SHOWN_CAPTION = 40  # characters
MAX_SIDE = 2_048  # px of a kept photo's shorter side
MAX_WORDS = 60  # characters of what the photos show
ARTICLES = re.compile(r"^(?:(?:a|an|the|my|our)(?:\s+|$))+", re.IGNORECASE)


@dataclass
class PhotoCheck:
    """Photos that can be used, and a sentence for each file that cannot.

    views: what the model sees, with a caption each. usable: the photos' files.
    """

    usable: list[str] = field(default_factory=list)
    views: list[tuple[Image.Image, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def inspect_photos(paths: Sequence[str] | None, size: int, center: bool = False) -> PhotoCheck:
    """Read each file upright and cut it as a training does, into squares of `size` pixels."""
    found = PhotoCheck()
    photos, captions, found.refused = _parted(paths or [])
    for path in photos:
        try:
            image = read_photo(path).image
        except ValueError as error:
            found.refused.append(printable(str(error)))
            continue
        found.usable.append(str(path))
        number = f"{len(found.usable)}"
        square = max(image.size) <= LONG * min(image.size)
        if square or center:
            caption = printable(captions.texts.get(path, ""), SHOWN_CAPTION)
            found.views.append((crop(image, size), f"{number} {caption}".strip()))
            continue
        wide = image.width > image.height
        names = ("left", "middle", "right") if wide else ("top", "middle", "bottom")
        found.views += [
            (crop(image, size, center=False, x=place, y=place), f"{number} {name}")
            for place, name in zip(PLACES, names, strict=True)
        ]
    return found


def _parted(paths: Sequence[str]) -> tuple[list[Path], Captions, list[str]]:
    """Photos, their captions, and a sentence for each other file that is of no use."""
    files = [Path(path) for path in paths]
    photos = [path for path in files if not is_caption_file(path)]
    try:
        captions, refused = match_captions(photos, [p for p in files if is_caption_file(p)]), []
    except ValueError as error:  # metadata that cannot be read
        captions, refused = Captions(), [printable(str(error))]
    if len(photos) > MAX_PHOTOS:
        refused.append(f"Only the first {MAX_PHOTOS} photos are used.")
    refused += [printable(f"{reason}.") for reason in captions.unused.values()]
    refused += [
        printable(f"The caption of {path.name} cannot be used: {reason}.")
        for path, reason in captions.broken.items()
    ]
    return photos[:MAX_PHOTOS], captions, refused


def save_photos(paths: Sequence[str], folder: Path) -> int:
    """Write the usable ones of these photos into a folder, upright, free of metadata, with their
    captions; returns how many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos, captions, _ = _parted(paths)
    count = 0
    for path in photos:
        try:
            image = read_photo(path).image
        except ValueError:
            continue  # named to the user when it was dropped
        scale = MAX_SIDE / min(image.size)
        if scale < 1:  # more than any base sees would only fill the disk
            image = image.resize([round(scale * side) for side in image.size])
        save_png(image, folder / f"{count:03d}.png")
        if caption := captions.texts.get(path):
            (folder / f"{count:03d}{CAPTION}").write_text(caption, "utf-8")
        count += 1
    return count


def class_word(text: str) -> str:
    """What the photos show, as a class word: "My dog." -> "dog". ValueError where it is empty."""
    words = re.sub(r"[^\w\s-]", "", ARTICLES.sub("", " ".join(text.split()))).strip()
    if not words:
        raise ValueError("Say what the photos show, such as: a dog.")
    if len(words) > MAX_WORDS:
        raise ValueError(f"What the photos show may have {MAX_WORDS} characters at most.")
    return words


def propose_token(taken: Sequence[str]) -> str:
    """A rare word for a trigger that no concept of the library uses."""
    used = {word.lower() for word in taken}
    for word in RARE_WORDS:
        if word.lower() not in used:
            return word
    number = 2
    while f"{RARE_WORDS[0]}{number}" in used:
        number += 1
    return f"{RARE_WORDS[0]}{number}"
