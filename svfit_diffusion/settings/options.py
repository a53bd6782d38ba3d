"""What a setting is: its default, the text of its flag, its bounds, and how its text is read."""

from __future__ import annotations

import argparse
from dataclasses import field
from typing import Any

ATTENTION = ("both", "self", "cross")
SCHEMES = ("none", "logit_normal", "mode", "cosmap", "sigma_sqrt")
RANK, COMMON_SIZE = "16", 4096
ROWS, VECTORS = 4, 1  # of a learned word: embedding rows, vectors in an output
COMMON_SIZES = (64, 32_768)  # least and most numbers of a common vector
# learning_rate and token_lr: as measured on Toybox; elsewhere SVDiff's for singular values, and
# that of diffusers' textual inversion, 5e-4, relative to 0.0137 in CLIP's table
TOYBOX_RATES, USUAL_RATES = (0.16, 0.24), (1e-3, 0.04)
AUTO, MOST_AUTO_STEPS = "auto", 2_000
SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial"),
    *("constant", "constant_with_warmup"),
)
PRECISIONS = ("no", "fp16", "bf16")
OFFLOAD = ("no", "model", "block")
QUANTIZE = ("4bit", "int8", "fp8")
OPTIMIZERS = ("AdamW", "prodigy")
TRACKERS = ("tensorboard", "wandb", "comet_ml", "all")


def option(default: Any, help: str, *, hidden: bool = False, **more: Any) -> Any:
    """A setting: its default, the help text of its flag, and what its values must be.

    hidden: a secret, which is shown nowhere. more: choices; above, a number that values must
    exceed; below, one that they must not reach; least, the smallest value; path, whether it is one
    on this machine, where `~` is the home folder; parse, what makes a value of a flag's text where
    the type alone does not say it; switch, whether the flag may stand without a value.
    """
    return field(default=default, repr=not hidden, metadata={"help": help, **more})


def check_common_size(size: int, name: str = "common_size") -> None:
    """ValueError unless it is 0 or a power of two that a common vector may have."""
    least, most = COMMON_SIZES
    if size and not (least <= size <= most and size & (size - 1) == 0):
        raise ValueError(
            f"{name} is {size}, but must be 0 or a power of two from {least} to {most:,}, such as "
            "4096."
        )


def number_of_steps(text: str) -> int | str:
    """The value of a flag max_train_steps: a number, or AUTO."""
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {AUTO!r}") from None


def optimizer_name(text: str) -> str:
    """An optimizer in any case, as diffusers' scripts take it."""
    return {name.lower(): name for name in OPTIMIZERS}.get(text.lower(), text)


def yes_or_no(text: str) -> bool:
    """The value of a switch that diffusers' scripts give a value."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return known[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from None
