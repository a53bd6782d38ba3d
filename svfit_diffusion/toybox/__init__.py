"""Toybox: the small text-to-image base that ships with the package (128 px, toy-like objects).

`load()` returns a plain `StableDiffusionPipeline`; `path()` is its folder, which diffusers loads
by itself too. Importing this module imports neither torch nor diffusers.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

RESOLUTION = 128  # px
TRIGGERS = ("sks", "zwx", "ohwx")  # one token each, never trained
GUIDANCE = 3.0
STEPS = 25

__all__ = ["GUIDANCE", "RESOLUTION", "STEPS", "TRIGGERS", "load", "path"]


def path() -> Path:
    """Folder of the pipeline in diffusers' layout."""
    return Path(str(files(__name__))) / "model"


def load(dtype: torch.dtype | None = None, **kwargs: Any) -> StableDiffusionPipeline:
    """Load the pipeline; `dtype` defaults to float32, `kwargs` go to `from_pretrained`."""
    import torch
    from diffusers import StableDiffusionPipeline

    if not (path() / "model_index.json").is_file():
        raise ValueError(f"Toybox is not installed: {path()} holds no pipeline.")
    options = {"safety_checker": None, "requires_safety_checker": False, "local_files_only": True}
    pipe = StableDiffusionPipeline.from_pretrained(
        path(), use_safetensors=True, dtype=dtype or torch.float32, **{**options, **kwargs}
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
