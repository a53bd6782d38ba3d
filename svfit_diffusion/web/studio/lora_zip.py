"""A concept for other programs: LoRA, sidecar files and embedding in one ZIP."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from .temporary_files import new_file
from .workspace import Workspace


def make_lora_zip(workspace: Workspace, name: str) -> str:
    """The path of a new ZIP; ValueError for an unknown name or a concept of another base."""
    entry = workspace.library.get(name)
    preview = None
    if entry.preview is not None:
        with Image.open(entry.preview) as image:
            preview = image.convert("RGB")
    target = new_file(f"{entry.name}-lora.zip")
    with tempfile.TemporaryDirectory() as folder:
        exported = workspace.pipeline.export(
            entry.card, Path(folder, f"{entry.name}.safetensors"), preview
        )
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in exported.files:
                archive.write(file, file.name)
    return str(target)
