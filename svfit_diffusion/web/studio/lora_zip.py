"""A concept for other programs: its LoRA, sidecars and embedding, in one ZIP."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from .temporary_files import fresh_file
from .workspace import Workspace


def packed_lora(desk: Workspace, name: str) -> str:
    """The path of a fresh ZIP; ValueError for a name that the library lacks or another base."""
    entry = desk.library.get(name)
    preview = None
    if entry.preview is not None:
        with Image.open(entry.preview) as image:
            preview = image.convert("RGB")
    target = fresh_file(f"{entry.name}-lora.zip")
    with tempfile.TemporaryDirectory() as folder:
        made = desk.studio.export(entry.card, Path(folder, f"{entry.name}.safetensors"), preview)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in made.files:
                archive.write(file, file.name)
    return str(target)
