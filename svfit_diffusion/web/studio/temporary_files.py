"""Files on their way to the browser: in the app's private temporary folder, under names of ours.

Uploads lie there too. What is older than a day goes, whoever put it there, and the oldest goes
first where it all grows too large.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

EVERY = 600.0  # seconds between two sweeps
KEPT = 90_000.0  # seconds: an hour longer than Gradio keeps what it knows of, so that it forgets it
MAX_BYTES = 4_000_000_000  # of all files


def _root() -> Path:
    """Where Gradio may serve from."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())


def fresh_file(name: str) -> Path:
    """A path for a new file of this name, in a folder of its own."""
    folder = _root() / "made" / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder / name


def served(path: Path, name: str | None = None) -> str:
    """A copy of a file of ours where Gradio may serve it from, under a name of ours."""
    stamp = path.stat()
    folder = _root() / "served" / f"{stamp.st_ino:x}-{stamp.st_mtime_ns:x}"
    copy = folder / (name or path.name)
    if not copy.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{secrets.token_hex(4)}"
        shutil.copyfile(path, fresh)
        os.replace(fresh, copy)
    return str(copy)


def sweep(folder: Path, kept: float, most: int) -> None:
    """Delete what is older than `kept` seconds, and the oldest beyond `most` bytes."""
    found, folders, now = [], [], time.time()
    for place, inside, names in os.walk(folder):  # follows no link
        folders.append(place)
        for path in (os.path.join(place, name) for name in (*inside, *names)):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if not stat.S_ISDIR(status.st_mode):
                    found.append((status.st_ctime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for changed, size, path in sorted(found):
        if changed > now - kept and total <= most:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= size
    for place in reversed(folders[1:]):  # the innermost first
        with contextlib.suppress(OSError):  # not empty, or not any more
            if os.lstat(place).st_ctime < now - kept:
                os.rmdir(place)


async def tidy(folder: Path) -> None:
    """Sweep the app's folder."""
    await asyncio.to_thread(sweep, folder, KEPT, MAX_BYTES)


@contextlib.asynccontextmanager
async def swept(folder: Path) -> AsyncIterator[None]:
    """Sweep the folder now and then as long as the block goes on."""

    async def work() -> None:
        while True:
            await tidy(folder)
            await asyncio.sleep(EVERY)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
