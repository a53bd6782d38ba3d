"""Uploaded photos: which can be used, what the model will see of them, copies for a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from .limits import MAX_PHOTOS
from .photo_edits import NO_EDIT, WORDS, Edit
from .photo_marks import PhotoMarks

PHOTO_SUFFIXES = [
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tif", ".tiff"),
]
MAX_CAPTION = 40  # characters of a caption on the page
MAX_SIDE = 2_048  # px, the shorter side of a saved photo


@dataclass
class PhotoCheck:
    """usable: photos that can be used. crops: what the model sees of them, with a caption each.

    refused: a sentence for each file that cannot be used. marks: a word or two on each usable one,
    texts: their captions. owners: of each crop the place of its photo in `usable`.
    """

    usable: list[str] = field(default_factory=list)
    crops: list[tuple[Image.Image, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


def inspect_photos(
    paths: Sequence[str] | None,
    size: int,
    center: bool = False,
    edits: Mapping[str, Edit] | None = None,
) -> PhotoCheck:
    """Read each file upright and crop it as a training does, to squares of `size` pixels."""
    found, marks, edits = PhotoCheck(), PhotoMarks(size), edits or {}
    photos, captions, found.refused = _separate_captions(paths or [])
    for path in photos:
        edit = edits.get(str(path), NO_EDIT)
        try:
            image = edit.cut(read_photo(path).image)
        except ValueError as error:
            found.refused.append(printable(str(error)))
            continue
        found.usable.append(str(path))
        found.marks.append(marks.mark(image))
        found.texts.append(edit.text(captions.texts.get(path)))
        crops = _crops(image, size, center)
        found.owners += [len(found.usable) - 1] * len(crops)
        found.crops += [(seen, _label(found, place)) for seen, place in crops]
    return found


def _label(found: PhotoCheck, place: str) -> str:
    """Under the last photo: its number, its mark, which part of it, its caption."""
    mark = f"({found.marks[-1]})" if found.marks[-1] else ""
    told = found.texts[-1].removeprefix(f"a photo of {WORDS} ")  # the same under all of them
    parts = (str(len(found.usable)), mark, place, printable(told, MAX_CAPTION))
    return " ".join(filter(None, parts))


def _crops(image: Image.Image, size: int, center: bool) -> list[tuple[Image.Image, str]]:
    """What the model sees of a photo, one crop or of a long photo three, each with its place."""
    if center or max(image.size) <= LONG * min(image.size):
        return [(crop(image, size), "")]
    wide = image.width > image.height
    names = ("left", "middle", "right") if wide else ("top", "middle", "bottom")
    return [
        (crop(image, size, center=False, x=place, y=place), name)
        for place, name in zip(PLACES, names, strict=True)
    ]


def preview_photo(path: str, size: int, edit: Edit) -> Image.Image:
    """What the model sees of one photo, in its middle if it is long; ValueError for no photo."""
    return crop(edit.cut(read_photo(path).image), size)


def caption_of(path: str, paths: Sequence[str], edit: Edit) -> str:
    """The caption of one photo among uploaded files; "" where it has none."""
    return edit.text(_separate_captions(paths)[1].texts.get(Path(path)))


def _separate_captions(paths: Sequence[str]) -> tuple[list[Path], Captions, list[str]]:
    """Photos, their captions, and a sentence for each other file that is of no use."""
    files = [Path(path) for path in paths]
    photos = [path for path in files if not is_caption_file(path)]
    try:
        captions, refused = match_captions(photos, [p for p in files if is_caption_file(p)]), []
    except ValueError as error:  # metadata that cannot be read
        captions, refused = Captions(), [printable(str(error))]
    if len(photos) > MAX_PHOTOS:
        refused.append(f"Only the first {MAX_PHOTOS} photos are used.")
    refused += [
        printable(f"{path.name} is used without a caption: {reason}.")
        for path, reason in captions.broken.items()
    ]
    refused += [printable(f"{reason}.") for reason in captions.unused.values()]
    return photos[:MAX_PHOTOS], captions, refused


def save_photos(
    paths: Sequence[str],
    folder: Path,
    edits: Mapping[str, Edit] | None = None,
    words: str = WORDS,
) -> int:
    """Write the usable photos into a folder, upright, without metadata, with their captions.

    words: what "{}" stands for in a caption. Returns how many there are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos, captions, _ = _separate_captions(paths)
    count, edits = 0, edits or {}
    for path in photos:
        edit = edits.get(str(path), NO_EDIT)
        try:
            image = edit.cut(read_photo(path).image)
        except ValueError:
            continue  # reported by inspect_photos
        scale = MAX_SIDE / min(image.size)
        if scale < 1:  # no base sees more, so more would only fill the disk
            image = image.resize([round(scale * side) for side in image.size])
        save_png(image, folder / f"{count:03d}.png")
        if caption := edit.text(captions.texts.get(path)):
            text = caption.replace(WORDS, words)
            (folder / f"{count:03d}{CAPTION}").write_text(text, "utf-8")
        count += 1
    return count
