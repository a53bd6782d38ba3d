"""What `accelerate launch` was told: it counts where no flag of ours says otherwise. Without the
launcher the precision is the one that fits the base (precision.py).

The launcher hands its precision on in the environment, and its gradient accumulation only with
DeepSpeed; otherwise that stands in its command line alone, where it is read from here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil

from ..settings import TrainConfig
from .precision import fitting_precision

PRECISION = "ACCELERATE_MIXED_PRECISION"
ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
_FLAG = "--gradient_accumulation_steps"
_LAUNCHERS = ("launch", "accelerate-launch", "accelerate.commands.launch")


def launched(config: TrainConfig) -> TrainConfig:
    """The configuration with the launcher's settings where it has none, and else the defaults."""
    changes = {}
    if config.mixed_precision is None:
        changes["mixed_precision"] = _precision(config)
    if config.gradient_accumulation_steps is None:
        changes["gradient_accumulation_steps"] = _accumulation()
    return replace(config, **changes) if changes else config


def _precision(config: TrainConfig) -> str:
    if PRECISION not in os.environ:
        return fitting_precision(config)
    found = os.environ[PRECISION].lower()
    if found not in ("no", "fp16", "bf16"):
        raise ValueError(
            f"the launcher asks for the mixed precision {found!r}, which is not offered; pass "
            "--mixed_precision no, fp16 or bf16."
        )
    return found


def _accumulation() -> int:
    text = os.environ.get(ACCUMULATION) or _launcher_flag(_launcher_command()) or "1"
    if not (text.isdecimal() and int(text)):
        raise ValueError(
            f"the launcher's gradient_accumulation_steps is {text!r}, but must be a number above "
            "0; pass --gradient_accumulation_steps."
        )
    return int(text)


def _launcher_command() -> list[str]:
    """The command line of the `accelerate launch` that started this process, if one did."""
    if PRECISION not in os.environ:
        return []
    try:
        command = psutil.Process().parent().cmdline()
    except (psutil.Error, AttributeError):  # it ended, or may not be looked at
        return []
    for place, word in enumerate(command):
        if Path(word).name in _LAUNCHERS:
            return command[place + 1 :]
    return []


def _launcher_flag(command: Sequence[str]) -> str | None:
    """The value of the flag before the script, whose own flags follow it."""
    for word, following in pairwise([*command, ""]):
        if word.endswith(".py"):
            return None
        if word == _FLAG:
            return following
        if word.startswith(f"{_FLAG}="):
            return word.partition("=")[2]
    return None
