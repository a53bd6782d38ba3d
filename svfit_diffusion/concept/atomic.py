"""Atomic writes: a file is written completely or not at all, and is on the disk afterwards.

A file is written under a temporary name in the same folder, synced, and renamed. A reader finds
either the old file or the new one, also after a crash, a power cut or on a full disk.
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

from safetensors import SafetensorError

ABANDONED = 3600  # seconds without a change, after which a temporary file has no writer any more


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`; after the block it replaces `path`.

    Its mode follows the umask. An error leaves `path` unchanged; an OSError is raised again with a
    message that says so.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(fresh, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        yield fresh
        fresh.chmod(mode & 0o777)  # safetensors replaces the file by its own, of mode 0600
        fsync_path(fresh)
        os.replace(fresh, path)
        fsync_path(path.parent)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        reason = getattr(error, "strerror", None) or str(error)
        kept = "; the file of that name is untouched" if path.is_file() else ""
        raise OSError(f"{path} could not be written: {reason}{kept}.") from error
    finally:
        fresh.unlink(missing_ok=True)


def replace_file(path: str | Path, data: bytes) -> Path:
    """Write a file atomically and create its folder. An OSError leaves `path` unchanged."""
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
    """Delete the temporary files of writes that were killed more than an hour ago."""
    for path in Path(folder).glob(".*.tmp"):
        with contextlib.suppress(OSError):  # another process may delete it first
            ours = re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) and path.is_file()
            if ours and time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def fsync_path(path: str | Path) -> None:
    """Wait until a file's contents, or a folder's entries, are on the disk."""
    folder = Path(path).is_dir()
    if folder and os.name == "nt":  # Windows cannot open folders, and needs no sync of them
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
