"""Files that are no concepts: LoRAs, which are converted, and others, which are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ...concept import write_concept
from ...sharing import import_lora
from .temporary_files import new_file

LORA_MARKS = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", ".lora.up.")
EMBEDDING_NAMES = {"emb_params", "clip_l", "clip_g", "string_to_param"}
LITTLE = 0.5  # of a LoRA's energy, below which the concept does not do what the LoRA does
EMBEDDING = (
    "{} is an embedding of textual inversion: a word alone, without the changes of weights that a "
    "concept has. Load it with diffusers' load_textual_inversion; here it cannot be used."
)


def kind_of(path: str | Path) -> str:
    """ "lora", "embedding" or "": what a safetensors file holds, by the names of its tensors."""
    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
            shapes = [file.get_slice(name).get_shape() for name in names[:3]]
    except (SafetensorError, OSError):
        return ""
    if any(mark in name for name in names for mark in LORA_MARKS):
        return "lora"
    words = 0 < len(names) <= 2 and all(len(shape) in (1, 2) for shape in shapes)
    known = set(names) <= EMBEDDING_NAMES
    return "embedding" if names and (known or (words and "deltas" not in names)) else ""


def convert_lora(path: str | Path, pipe: Any) -> tuple[Path, str]:
    """A concept file made of a LoRA of the base `pipe`, and a sentence on what it keeps.

    ValueError where the LoRA cannot be read, or is of another base.
    """
    made = import_lora(path, pipe)
    target = write_concept(made.concept, new_file(f"{Path(path).stem}.safetensors"))
    text = f"It is a LoRA: as a concept it keeps {made.share:.1%} of what the LoRA changes."
    if made.share < LITTLE:
        text += " That is too little to generate what the LoRA does; use the LoRA itself."
    return target, text
