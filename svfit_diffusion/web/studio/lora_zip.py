"""A concept for other programs: LoRA, sidecar files, embedding and a read-me in one ZIP."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from .library import Entry
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
            archive.writestr("README.txt", read_me(entry, exported.calls, exported.lacks))
    return str(target)


def read_me(entry: Entry, calls: Mapping[str, str], lacks: str = "") -> str:
    """How the files of a ZIP are used. calls: program -> what to do and to write there. lacks: what
    of the concept they do not hold.
    """
    lines = [
        f"{entry.name}: a LoRA for {entry.card.base}, and for no other base.",
        "",
        "ComfyUI: put the LoRA into models/loras and load it with a LoraLoader node.",
        "AUTOMATIC1111, Forge: put it, with the .json and the .png, into models/Lora.",
        "InvokeAI: add it in the model manager.",
        "An embedding, if there is one, is the word: into models/embeddings or embeddings.",
        "",
        "What to write into the prompt:",
        *(f"{program}: {call}" for program, call in calls.items()),
        *(["", lacks[:1].upper() + lacks[1:]] if lacks else []),
        "",
    ]
    return "\n".join(lines)
