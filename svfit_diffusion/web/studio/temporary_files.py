"""The app's private temporary folder: files for the browser, and uploads.

All files older than a day are deleted, and the oldest first when the folder grows too large.
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
from collections.abc import AsyncIterator, Callable
from pathlib import Path

SWEEP_SECONDS = 600.0  # between two sweeps
KEEP_SECONDS = 90_000.0  # an hour more than Gradio's delete_cache, which is to delete first
MAX_BYTES = 4_000_000_000  # of all files
VISITS = "visits"  # the folder of visitors' folders


def _root() -> Path:
    """The folder that Gradio serves files from."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())


def new_file(name: str) -> Path:
    """A path for a new file of this name, in a folder of its own."""
    folder = _root() / "made" / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder / name


def servable_copy(path: Path, name: str | None = None) -> str:
    """The path of a copy where Gradio may serve it from; name: by default the file's own.

    A file that lies there already is its own copy.
    """
    if path.is_relative_to(_root()) and name in (None, path.name):
        return str(path)
    stamp = path.stat()
    folder = _root() / "served" / f"{stamp.st_ino:x}-{stamp.st_mtime_ns:x}"
    copy = folder / (name or path.name)
    if not copy.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{secrets.token_hex(4)}"
        shutil.copyfile(path, temporary)
        os.replace(temporary, copy)
    return str(copy)


def discard_upload(path: str) -> None:
    """Delete a file that was uploaded, which has a folder of its own; any other file stays."""
    file = Path(path).resolve()
    if file.parent.parent == _root().resolve():
        file.unlink(missing_ok=True)


def sweep(folder: Path, max_age: float, max_bytes: int) -> None:
    """Delete files older than max_age seconds, and the oldest while there are over max_bytes.

    What visitors have stays: they are forgotten in their own time (visitors.py).
    """
    found, folders, now = [], [], time.time()
    for place, inside, names in os.walk(folder):  # follows no link
        if place == str(folder) and VISITS in inside:
            inside.remove(VISITS)
        folders.append(place)
        for path in (os.path.join(place, name) for name in (*inside, *names)):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if not stat.S_ISDIR(status.st_mode):
                    found.append((status.st_ctime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for changed, size, path in sorted(found):
        if changed > now - max_age and total <= max_bytes:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= size
    for place in reversed(folders[1:]):  # the innermost first
        with contextlib.suppress(OSError):  # not empty, or not any more
            if os.lstat(place).st_ctime < now - max_age:
                os.rmdir(place)


async def sweep_app_folder(folder: Path) -> None:
    """Sweep a folder once, with the app's limits."""
    await asyncio.to_thread(sweep, folder, KEEP_SECONDS, MAX_BYTES)


@contextlib.asynccontextmanager
async def sweeping(folder: Path, *others: Callable[[], None]) -> AsyncIterator[None]:
    """Sweep a folder every SWEEP_SECONDS while the block runs. others: done then, too."""

    async def work() -> None:
        while True:
            await sweep_app_folder(folder)
            for other in others:
                await asyncio.to_thread(other)
            await asyncio.sleep(SWEEP_SECONDS)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
