"""The one way to write a file: whole or not at all, and on the disk when it is said to be written.

A file is written under another name in the same folder, synced, and put in its place at once. So
whoever looks finds the old file or the new one, also after a crash, a power cut or on a full disk.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

ABANDONED = 3600  # seconds without a change, after which a temporary file is nobody's


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A new empty file beside `path` to write to; it takes the place of `path` after the block.

    Its mode follows the umask. An error leaves `path` as it was; an OSError becomes one that says
    so in a sentence.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(fresh, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        yield fresh
        fresh.chmod(mode & 0o777)  # safetensors puts a file of its own there, with mode 0600
        fsync_folder(fresh)
        os.replace(fresh, path)
        fsync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        kept = "; the file of that name is untouched" if path.is_file() else ""
        raise OSError(f"{path} could not be written: {reason}{kept}.") from error
    finally:
        fresh.unlink(missing_ok=True)


def replace_file(path: str | Path, data: bytes) -> Path:
    """Write a file's contents all at once; makes the folder. OSError leaves `path` as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as fresh:
        fresh.write_bytes(data)
    return path


def free_path(path: str | Path) -> Path:
    """The path, or where something is there already, the first free one of `name-1.png`, ..."""
    path = Path(path)
    numbered = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in itertools.count(1))
    return next(p for p in itertools.chain([path], numbered) if not os.path.lexists(p))


def remove_leftovers(folder: str | Path) -> None:
    """Delete what writes that were killed more than an hour ago left behind in a folder."""
    for path in Path(folder).glob(".*.tmp"):
        with contextlib.suppress(OSError):  # another process sweeps too
            ours = re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) and path.is_file()
            if ours and time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def fsync_folder(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    folder = Path(path).is_dir()
    if folder and os.name == "nt":  # Windows opens no folders, and keeps names itself
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
