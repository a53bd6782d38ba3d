"""Paths that users type: `~` is the home folder, and what is there already is kept.

A name that the user gave and that is taken is an error, unless --overwrite is given; a name of ours
that is taken gets a number.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def expanded(text: str) -> str:
    """A path with `~` as the home folder, also where no shell has seen it: --output_dir=~/x."""
    return os.path.expanduser(text)


def port(text: str) -> int:
    """A port's number."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; it must be from 0 to 65535")
    return number


def add_overwrite(command: Any, what: str = "files of the same names") -> None:
    """The flag --overwrite."""
    command.add_argument("--overwrite", action="store_true", help=f"write over {what}")


def output_path(
    given: str | None,
    default: str | Path,
    overwrite: bool,
    taken: Callable[[Path], bool] = os.path.lexists,
) -> Path:
    """Where to write: what was given, or the default, numbered until it is free.

    taken: whether something is at a path that is to be kept. ValueError where what was given is.
    """
    path = Path(given or default)
    if overwrite or not taken(path):
        return path
    if given:
        raise ValueError(
            f"{path} is there already; pass another name, or --overwrite to replace it."
        )
    number = 1
    while taken(numbered := path.with_name(f"{path.stem}-{number}{path.suffix}")):
        number += 1
    return numbered


def filled(folder: Path) -> bool:
    """Whether a folder holds anything."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
