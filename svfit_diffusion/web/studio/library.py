"""The user's concepts: a folder each in the user's data folder, safe with several windows open.

    concepts/<name>/<name>.safetensors   the file, as it is shared
    concepts/<name>/preview.png          a picture of it, if one was generated
    bin/<time>-<name>/                   deleted concepts, the last twenty

Changes are made under a lock between processes; a concept appears and goes by one rename, so a
reader sees all of it or nothing. Names are made by slug(): letters, digits and "_".
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from PIL import Image
from platformdirs import user_data_path

from ...concept import MAX_FILE_BYTES, replace_file, to_bytes
from ...generation import save_png
from ...pipeline import adapter_name
from ...sharing import rename
from .cards import Card, read_card

PREVIEW_SIZE = 256  # px
MAX_DELETED = 20  # concepts in the bin
MAX_NAME = 40  # characters
MAX_ENTRIES = 500


def data_folder() -> Path:
    """The app's data folder: $SVFIT_HOME, else the user's."""
    return Path(os.environ.get("SVFIT_HOME") or user_data_path("svfit-diffusion"))


def slug(text: str) -> str:
    """A name made from any text: letters, digits and "_", never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:MAX_NAME].rstrip("_")
    return adapter_name(name or "concept")


@dataclass(frozen=True)
class Entry:
    """A concept of the library. preview: a picture of it, if there is one."""

    name: str
    path: Path
    card: Card
    preview: Path | None


class Library:
    """The concepts of one data folder; several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.concepts, self.bin = folder / "concepts", folder / "bin"
        for path in (self.concepts, self.bin):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".library.lock", timeout=30)

    def entries(self) -> list[Entry]:
        """All concepts that can be read, the newest first."""
        found = []
        for folder in sorted(self.concepts.iterdir(), key=_changed, reverse=True):
            with contextlib.suppress(ValueError):  # damaged, or deleted just now
                found.append(self._entry(folder.name))
        return found

    def names(self) -> list[str]:
        """The names of all entries."""
        return [entry.name for entry in self.entries()]

    def get(self, name: str) -> Entry:
        """The concept of this name; ValueError where there is none."""
        if name not in os.listdir(self.concepts):
            raise ValueError(f"The library has no concept named {name[:MAX_NAME]!r}.")
        return self._entry(name)

    def words(self) -> set[str]:
        """The words that call the concepts, in lower case."""
        concepts = (entry.card.concept for entry in self.entries())
        return {call.word.lower() for concept in concepts for call in concept.all_triggers()}

    def salt(self) -> str:
        """A random text that stays the same, by which proposed words differ between users."""
        path = self.concepts.parent / ".salt"
        with self._lock:
            if not path.is_file():
                replace_file(path, secrets.token_hex(8).encode())
        return path.read_text()

    def version(self) -> str:
        """Changes whenever the library does."""
        stamps = [f"{path.name} {_changed(path)}" for path in sorted(self.concepts.iterdir())]
        return str(hash("\n".join(stamps)))

    def add(
        self,
        path: str | Path,
        name: str = "",
        preview: Image.Image | None = None,
        word: str = "",
    ) -> str:
        """Copy a concept file into the library and return its name; a duplicate is not added.

        name: by default the file's. word: to call it by, by default its own. ValueError where it is
        not a usable concept file, or cannot be called so.
        """
        card = read_card(path)
        renamed = word and word != card.concept.token
        data = to_bytes(rename(card.concept, word)) if renamed else None
        with self._lock:
            entries = self.entries()
            for entry in entries:
                if entry.card.digest == card.digest:
                    return entry.name
            if len(entries) >= MAX_ENTRIES:
                raise ValueError(f"The library is full: it has {MAX_ENTRIES} concepts.")
            name = self._unused_name(slug(name or Path(path).stem))
            fresh = self.concepts.parent / f".new-{secrets.token_hex(4)}"
            try:
                fresh.mkdir()
                file = fresh / f"{name}.safetensors"
                replace_file(file, data or _read_bytes(path))
                read_card(file)  # it may have changed since it was checked
                if preview:
                    _write_preview(fresh, preview)
                os.replace(fresh, self.concepts / name)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        return name

    def rename(self, name: str, word: str, old: str | None = None) -> None:
        """Call a concept by another word. old: which of its words, where it has several.

        ValueError where that cannot be, or where another concept of the library has the word.
        """
        with self._lock:
            entry = self.get(name)
            made = rename(entry.card.concept, word, old)
            for other in self.entries():
                words = {call.word.lower() for call in other.card.concept.all_triggers()}
                if other.name != name and word.lower() in words:
                    raise ValueError(f"{other.name} is called by {word!r}; choose another word.")
            replace_file(entry.path, to_bytes(made))

    def set_preview(self, name: str, image: Image.Image) -> None:
        """Set the picture of a concept."""
        with self._lock:
            _write_preview(self.get(name).path.parent, image)

    def delete(self, name: str) -> None:
        """Move a concept into the bin."""
        with self._lock:
            folder = self.get(name).path.parent
            os.replace(folder, self.bin / f"{time.time_ns():020d}-{name}")
            for old in sorted(self.bin.iterdir())[:-MAX_DELETED]:
                shutil.rmtree(old, ignore_errors=True)

    def deleted(self) -> list[str]:
        """What is in the bin, the latest first: "<time>-<name>" each."""
        return sorted((path.name for path in self.bin.iterdir()), reverse=True)

    def undo(self, which: str | None = None) -> str:
        """Restore a deleted concept, by default the latest, and return its name."""
        with self._lock:
            deleted = self.deleted()
            if not deleted or which not in (None, *deleted):
                raise ValueError("There is no such deleted concept to restore.")
            folder = self.bin / (which or deleted[0])
            old_name = folder.name.partition("-")[2]
            name = self._unused_name(old_name)
            if name != old_name:  # its name was taken meanwhile
                os.replace(folder / f"{old_name}.safetensors", folder / f"{name}.safetensors")
            os.replace(folder, self.concepts / name)
        return name

    def _entry(self, name: str) -> Entry:
        folder = self.concepts / name
        path, preview = folder / f"{name}.safetensors", folder / "preview.png"
        return Entry(name, path, read_card(path), preview if preview.is_file() else None)

    def _unused_name(self, name: str) -> str:
        taken, number, found = set(os.listdir(self.concepts)), 1, name
        while found in taken:
            number += 1
            found = f"{name}_{number}"
        return found


def _read_bytes(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_FILE_BYTES)


def _write_preview(folder: Path, image: Image.Image) -> None:
    image = image.convert("RGB")
    image.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
    save_png(image, folder / "preview.png")


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # deleted by another window just now
        return 0
