"""The pictures that were generated: a folder of PNG files with their parameters, nothing else.

    pictures/<time>-<seed>.png

The folder is the history: what is deleted there by other programs is gone here too.
"""

from __future__ import annotations

import contextlib
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...generation import Parameters, read_parameters, save_png
from .temporary_files import new_file

SHOWN = 50  # pictures, the newest
MAX_CAPTION = 80  # characters


@dataclass(frozen=True)
class Picture:
    """A picture of the history. parameters: None where it has none, such as a foreign file."""

    path: Path
    parameters: Parameters | None

    @property
    def base(self) -> str:
        """The name of its base; "" where that is not known."""
        return self.parameters.base if self.parameters else ""

    @property
    def made(self) -> str:
        """When it was made, in local time; "" where its name does not say."""
        stamp = self.path.name.partition("-")[0]
        if not stamp.isdecimal():
            return ""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(int(stamp) / 1e9))

    @property
    def caption(self) -> str:
        """Its prompt and seed."""
        if self.parameters is None:
            return self.path.name
        return f"{self.parameters.prompt[:MAX_CAPTION]} · seed {self.parameters.seed}"


class History:
    """The pictures of one data folder; several windows may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pictures"
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, image: Image.Image, parameters: Parameters) -> Path:
        """Save a picture, and return its path."""
        path = self.folder / f"{time.time_ns():020d}-{parameters.seed}.png"
        save_png(image, path, parameters)
        return path

    def last(self, count: int = SHOWN) -> list[Picture]:
        """The newest pictures, the newest first."""
        return [_read(path) for path in self._paths()[:count]]

    def get(self, name: str) -> Picture:
        """The picture of this file name; ValueError where there is none."""
        path = next((path for path in self._paths() if path.name == name), None)
        if path is None:
            raise ValueError(f"There is no picture {name[:MAX_CAPTION]!r} any more.")
        return _read(path)

    def delete(self, name: str) -> None:
        """Delete a picture."""
        self.get(name).path.unlink(missing_ok=True)

    def trim(self, keep: int) -> None:
        """Delete all but the newest pictures."""
        for path in self._paths()[keep:]:
            path.unlink(missing_ok=True)

    def version(self) -> str:
        """Changes whenever a picture comes or goes."""
        return str(self.folder.stat().st_mtime_ns)

    def archive(self) -> Path:
        """A new ZIP of all pictures; ValueError where there is none."""
        paths = self._paths()
        if not paths:
            raise ValueError("There are no pictures yet.")
        target = new_file("pictures.zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # PNG is packed already
            for path in reversed(paths):
                archive.write(path, path.name)
        return target

    def _paths(self) -> list[Path]:
        """All pictures, the newest first: their names begin with the time."""
        return sorted(self.folder.glob("*.png"), reverse=True)


def _read(path: Path) -> Picture:
    found = None
    with contextlib.suppress(OSError, ValueError):  # deleted just now, or not of ours
        found = read_parameters(path)
    return Picture(path, found)
