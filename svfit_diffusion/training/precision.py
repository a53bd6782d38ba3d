"""The precision of a training's frozen base: what fits the base, and what cannot work.

A base that was published in bfloat16 often overflows in float16. Weights of four bits are
multiplied in the training's precision: float32 would be slow, and take more memory than they save.
"""

from __future__ import annotations

import torch

from ..families import Family, family_of
from ..settings import TrainConfig


def fitting_precision(config: TrainConfig) -> str:
    """The precision where neither a flag nor the launcher names one: bf16 for quantised weights,
    and on a GPU for a base that was published in it, else float32 ("no").

    ValueError where the base cannot be read.
    """
    if config.quantize:
        return "bf16"
    if not torch.cuda.is_available():
        return "no"
    family = family_of(config.pretrained_model_name_or_path, config.revision)
    return "bf16" if family.dtype == "bfloat16" else "no"


def check_precision(config: TrainConfig, family: Family) -> None:
    """ValueError for a precision in which the base cannot be trained."""
    if config.mixed_precision == "fp16" and family.dtype == "bfloat16":
        raise ValueError(
            f"mixed_precision is fp16, but bases of the family {family.name} are published in "
            "bfloat16 and overflow in float16; pass --mixed_precision bf16."
        )
    if config.mixed_precision == "no" and config.quantize == "4bit":
        raise ValueError(
            "quantize 4bit beside mixed_precision no would compute in float32, which is slow and "
            "takes more memory than the weights save; pass --mixed_precision bf16."
        )
