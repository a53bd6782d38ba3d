"""TrainConfig fields for the qualities of the page: quick, balanced, thorough, auto."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...families import TOYBOX, family_of
from ...generation import pick_device
from ...settings import AUTO, PRESETS, TrainConfig
from .limits import MAX_TRAIN_STEPS

BASE = "pretrained_model_name_or_path"  # a run is known by it, so it is stored in any case
QUALITIES = ("quick", "balanced", "thorough", AUTO)
TOYBOX_STEPS = dict(zip(QUALITIES, (100, 200, 400, AUTO), strict=True))  # batches of four
STEPS = dict(zip(QUALITIES, (300, 800, 1_600, AUTO), strict=True))  # of one photo
MIXED_PRECISION = {"float16": "fp16", "bfloat16": "bf16"}
CHECKPOINTING_STEPS = 25  # steps between checkpoints of a few kilobytes each


def make_config(
    base: str,
    folder: Path,
    name: str,
    token: str,
    word: str,
    quality: str = QUALITIES[0],
    preset: str = "tiny",
    **overrides: Any,
) -> dict[str, Any]:
    """The base, and the TrainConfig fields that differ from its defaults.

    ValueError for impossible ones.

    folder: of the run. overrides: fields that replace those of the quality, unless they are None.
    """
    if quality not in QUALITIES:
        raise ValueError(f"The quality is {quality!r}, but must be one of {QUALITIES}.")
    if preset not in PRESETS:
        raise ValueError(f"The preset is {preset!r}, but must be one of {tuple(PRESETS)}.")
    fields = {"max_train_steps": TOYBOX_STEPS[quality]}
    if base != TOYBOX:
        precision = MIXED_PRECISION[family_of(base).dtype] if pick_device() == "cuda" else "no"
        fields = {
            "max_train_steps": STEPS[quality],
            "train_batch_size": 1,
            "gradient_checkpointing": True,
            "mixed_precision": precision,
        }
    config = TrainConfig(
        pretrained_model_name_or_path=base,
        instance_data_dir=str(folder / "photos"),
        placeholder_token=token,
        initializer_token=word,
        output_dir=str(folder / name),
        checkpointing_steps=CHECKPOINTING_STEPS,
        **(PRESETS[preset] | fields | {k: v for k, v in overrides.items() if v is not None}),
    )
    if config.most_steps > MAX_TRAIN_STEPS:
        raise ValueError(f"A training may have {MAX_TRAIN_STEPS:,} steps at most.")
    config.words()
    found, defaults = asdict(config), asdict(TrainConfig())
    return {key: value for key, value in found.items() if key == BASE or value != defaults[key]}
