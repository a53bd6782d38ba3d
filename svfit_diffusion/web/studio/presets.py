"""From what a user chooses to a TrainConfig: quick, balanced, thorough or auto, not numbers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...families import TOYBOX, family_of
from ...generation import pick_device
from ...settings import AUTO, PRESETS, TrainConfig

QUALITIES = ("quick", "balanced", "thorough", AUTO)
TOYBOX_STEPS = dict(zip(QUALITIES, (100, 200, 400, AUTO), strict=True))  # four pictures each
STEPS = dict(zip(QUALITIES, (300, 800, 1_600, AUTO), strict=True))  # one picture each
MAX_TRAIN_STEPS = 20_000
HALVES = {"float16": "fp16", "bfloat16": "bf16"}
CHECKPOINTS = 25  # steps between them: a few kilobytes each


def make_config(
    base: str,
    folder: Path,
    name: str,
    token: str,
    word: str,
    quality: str = QUALITIES[0],
    preset: str = "tiny",
    **given: Any,
) -> dict[str, Any]:
    """Fields of a TrainConfig that differ from its defaults; ValueError for impossible ones.

    folder: the run's. given: fields that win over the quality's; None leaves them to it.
    """
    if quality not in QUALITIES:
        raise ValueError(f"The quality is {quality!r}, but must be one of {QUALITIES}.")
    if preset not in PRESETS:
        raise ValueError(f"The preset is {preset!r}, but must be one of {tuple(PRESETS)}.")
    own = {"max_train_steps": TOYBOX_STEPS[quality]}
    if base != TOYBOX:
        half = HALVES[family_of(base).dtype] if pick_device() == "cuda" else "no"
        own = {
            "max_train_steps": STEPS[quality],
            "train_batch_size": 1,
            "gradient_checkpointing": True,
            "mixed_precision": half,
        }
    config = TrainConfig(
        pretrained_model_name_or_path=base,
        instance_data_dir=str(folder / "photos"),
        placeholder_token=token,
        initializer_token=word,
        output_dir=str(folder / name),
        checkpointing_steps=CHECKPOINTS,
        **(PRESETS[preset] | own | {k: v for k, v in given.items() if v is not None}),
    )
    if config.most_steps > MAX_TRAIN_STEPS:
        raise ValueError(f"A training may have {MAX_TRAIN_STEPS:,} steps at most.")
    config.words()
    plain = asdict(TrainConfig())
    return {key: value for key, value in asdict(config).items() if value != plain[key]}
