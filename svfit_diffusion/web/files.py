"""Files on their way to the browser: in the app's private temporary folder, under names of ours."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path


def _root() -> Path:
    """Where Gradio may serve from, and clears away what is old."""
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
