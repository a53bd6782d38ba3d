"""Captions of photos, from text files beside them and from the metadata of a Hub's image folder.

    IMG_1.jpg    IMG_1.txt, IMG_1.TXT or IMG_1.jpg.txt        a caption each
    metadata.jsonl, metadata.csv                              file_name and text, a row a photo

Names are compared without regard to case and to Unicode's normal forms: a folder that went through
a Mac, a zip file or a camera still finds its captions. What belongs to no photo is named.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

CAPTION, MAX_CAPTION = ".txt", 10_000  # a caption's file; bytes: no base reads more
METADATA, MAX_METADATA = ("metadata.jsonl", "metadata.csv"), 10_000_000  # bytes
CAPTION_SUFFIXES = (CAPTION, *(Path(name).suffix for name in METADATA))
FILE_NAME, COLUMNS = "file_name", ("text", "caption", "prompt")


class CaptionError(ValueError):
    """Why a caption cannot be used: a clause without a full stop."""


@dataclass
class Captions:
    """The captions of some photos.

    texts: photo -> its caption. broken: photo -> why its caption cannot be used. unused: a file
    that belongs to no photo -> why.
    """

    texts: dict[Path, str] = field(default_factory=dict)
    broken: dict[Path, str] = field(default_factory=dict)
    unused: dict[Path, str] = field(default_factory=dict)


def is_caption_file(path: str | Path) -> bool:
    """Whether a file is one of captions, and no photo."""
    path = Path(path)
    return path.suffix.lower() == CAPTION or path.name.lower() in METADATA


def match_captions(
    photos: Sequence[Path], files: Sequence[Path], column: str | None = None
) -> Captions:
    """The captions that files hold for photos. A text file beside a photo wins over metadata.

    column: of metadata; by default the first of COLUMNS that is there. Raises ValueError for
    metadata that cannot be read.
    """
    found = Captions()
    for path in (path for path in files if path.name.lower() in METADATA):
        _add_metadata(found, photos, path, column)
    taken: dict[Path, Path] = {}
    texts = (path for path in files if path.suffix.lower() == CAPTION)
    for path in sorted(texts, key=lambda path: (path.suffix != CAPTION, path.name)):
        owners = _owners(photos, path)
        if not owners:
            found.unused[path] = f"{path.name} is no photo's caption; name it like its photo"
        for photo in owners:
            if photo in taken:
                found.unused[path] = (
                    f"{path.name} is not used: {taken[photo].name} is the caption of {photo.name}"
                )
                continue
            taken[photo] = path
            _add_text(found, photo, path)
    return found


def _add_text(found: Captions, photo: Path, path: Path) -> None:
    try:
        if text := read_caption(path):
            found.texts[photo] = text
    except (CaptionError, OSError) as error:
        found.broken[photo] = str(error)


def read_caption(path: Path) -> str | None:
    """The text of a caption's file, None if it is empty.

    CaptionError for one that is not UTF-8 or has more than MAX_CAPTION bytes.
    """
    with path.open("rb") as file:
        data = file.read(MAX_CAPTION + 1)
    if len(data) > MAX_CAPTION:
        raise CaptionError(
            f"its caption {path.name} has more than {MAX_CAPTION:,} bytes; shorten it"
        )
    try:
        return data.decode("utf-8-sig").strip() or None
    except UnicodeDecodeError:
        raise CaptionError(f"its caption {path.name} is not UTF-8; save it as UTF-8") from None


def _owners(photos: Sequence[Path], path: Path) -> list[Path]:
    """The photos that a text file is named like, those of its very name if there are any."""
    exact = [p for p in photos if path.stem in (p.stem, p.name)]
    stem = _same(path.stem)
    return exact or [p for p in photos if stem in (_same(p.stem), _same(p.name))]


def _same(name: str) -> str:
    """A name without case and in one normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _add_metadata(found: Captions, photos: Sequence[Path], path: Path, column: str | None) -> None:
    """The captions of a metadata file's rows, by the photos' names."""
    by_name = {_same(photo.name): photo for photo in photos}
    others = []
    for number, row in _rows(path):
        name = row.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{path.name} has no {FILE_NAME} in row {number}; name each photo.")
        photo = by_name.get(_same(name.removeprefix("./")))
        text = row.get(_column(path, row, column))
        if photo is None:
            others.append(name)
        elif isinstance(text, str) and text.strip():
            found.texts[photo] = text.strip()[:MAX_CAPTION]
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        found.unused[path] = f"{path.name} has rows of photos that are not here: {named}"


def _column(path: Path, row: dict, column: str | None) -> str:
    """The name of the captions' column."""
    names = (column,) if column else COLUMNS
    for name in names:
        if name in row:
            return name
    held = ", ".join(str(name) for name in row) or "none"
    raise ValueError(
        f"{path.name} has no column {' or '.join(names)}, but {held}; pass the captions' as "
        "--caption_column."
    )


def _rows(path: Path) -> list[tuple[int, dict]]:
    """The rows of a metadata file with their numbers, from 1."""
    with path.open("rb") as file:
        data = file.read(MAX_METADATA + 1)
    if len(data) > MAX_METADATA:
        raise ValueError(f"{path.name} has more than {MAX_METADATA:,} bytes; shorten it.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not UTF-8; save it as UTF-8.") from None
    if path.suffix.lower() == ".csv":
        return list(enumerate(csv.DictReader(io.StringIO(text, newline="")), 1))
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} of {path.name} is no JSON object.")
            rows.append((number, row))
    return rows
