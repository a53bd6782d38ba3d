"""What a training will do, shown before its first step: a wrong guess is seen in time."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

import torch
from accelerate import Accelerator

from ..concept import printable, to_bytes
from ..data import count_class_images
from ..generation import size_text
from ..settings import AUTO, MOST_AUTO_STEPS, TrainConfig
from .adapted_base import COMMON, TOKEN, AdaptedBase
from .launcher import PRECISION
from .result import unchecked_concept
from .subject import Source

log = logging.getLogger(__name__)
SHOWN = 200  # characters of a line
TIMED = 3  # steps after which a step's time is known: the first ones warm up


def summarise(
    config: TrainConfig,
    given: TrainConfig,
    accelerator: Accelerator,
    source: Source,
    base: AdaptedBase,
) -> dict[str, str]:
    """A name and a sentence for each thing that was decided.

    given: the configuration before the launcher's settings and epochs were put into it.
    """
    found = {
        "base": f"{config.pretrained_model_name_or_path} (family {base.family.name})",
        "photos": _photos(source),
        "captions": _captions(config, source),
        "trigger": f"{source.token} ({'learned' if base.tokens else 'read as it is typed'})",
        "class word": _class_word(given, source),
    }
    if config.with_prior_preservation:
        found["class images"] = _class_images(config)
    found |= {
        "trained": _trained(base),
        "file": f"{config.concept_path}, about {size_text(_file_bytes(config, base, source))}",
        "steps": _steps(config, accelerator),
        "rate": _rate(config),
        "precision": _precision(config, given),
        "device": _device(accelerator),
    }
    return {name: printable(text, SHOWN) for name, text in found.items()}


def show(summary: Mapping[str, str]) -> None:
    """Log the summary, a line each."""
    for name, text in summary.items():
        log.info("%-13s %s", name, text)


class StepClock:
    """Says once how long a step takes: after the first TIMED of a run."""

    def __init__(self) -> None:
        self.done, self.began = 0, time.monotonic()

    def step(self, left: int | None) -> str:
        """Count a step; the sentence when it is due, else "". left: steps that are to come."""
        self.done += 1
        return time_left(time.monotonic() - self.began, TIMED, left) if self.done == TIMED else ""


def time_left(seconds: float, steps: int, left: int | None) -> str:
    """A sentence on how long the steps take. left: steps that are to come, None if not known."""
    each = seconds / steps
    text = f"{each:.2g} s a step" if each < 100 else f"{each:.0f} s a step"
    if left is None:
        return f"{text}."
    minutes = each * left / 60
    rest = f"{minutes:.0f} min" if minutes >= 2 else f"{each * left:.0f} s"
    return f"{text}, about {rest} to go."


def _photos(source: Source) -> str:
    text = f"{len(source.photos)} used"
    if not source.skipped:
        return text
    names = ", ".join(item.path.name for item in source.skipped[:3])
    more = ", ..." if len(source.skipped) > 3 else ""
    return f"{text}, {len(source.skipped)} skipped ({names}{more})"


def _captions(config: TrainConfig, source: Source) -> str:
    count = sum(photo.caption is not None for photo in source.photos)
    bare = len(source.photos) - count
    text = f"{count} read"
    if bare:
        text += f", {bare} as {source.prompt!r}"
        masked = config.mask_data_dir or config.alpha_mask
        if config.names_backgrounds and not masked:
            text += " and what the base sees behind the subject"
    return text


def _class_word(given: TrainConfig, source: Source) -> str:
    if given.initializer_token or not given.instance_prompt:
        return source.class_word
    return f"{source.class_word} (understood from the prompt; --initializer_token sets another)"


def _class_images(config: TrainConfig) -> str:
    held = min(count_class_images(config.class_data_dir), config.num_class_images)
    return f"{held} in {config.class_data_dir}, {config.num_class_images - held} to be generated"


def _trained(base: AdaptedBase) -> str:
    groups = base.parameter_groups()
    deltas = sum(p.numel() for kind in ("denoiser", "text") for p in groups[kind].values())
    where = ", ".join(f"{part}: {attention}" for part, attention in base.targets.items())
    common = sum(p.numel() for p in groups[COMMON].values())
    text = f"{deltas:,} singular values ({where})"
    text += f", {common:,} of a common vector" if common else ""
    rows = sum(p.numel() for kind in groups if kind.endswith(TOKEN) for p in groups[kind].values())
    return f"{text} and {rows:,} values of the trigger" if rows else text


def _file_bytes(config: TrainConfig, base: AdaptedBase, source: Source) -> int:
    size = config.resolution or base.family.size(base.pipe)
    facts = {"steps": 100, "batch": config.train_batch_size, "lr": config.learning_rate,
             "photos": len(source.photos), "px": size, "seed": config.seed}  # fmt: skip
    words = source.token, source.class_word
    return len(to_bytes(unchecked_concept(config, base, words, facts)))


def _steps(config: TrainConfig, accelerator: Accelerator) -> str:
    pictures = config.train_batch_size * accelerator.num_processes
    pictures *= config.gradient_accumulation_steps
    if config.max_train_steps == AUTO:
        text = f"until the loss has settled, at most {MOST_AUTO_STEPS:,}"
    else:
        text = f"{config.max_train_steps:,}"
    parts = [str(config.train_batch_size)]
    if config.gradient_accumulation_steps > 1:
        parts.append(f"{config.gradient_accumulation_steps} accumulated")
    if accelerator.num_processes > 1:
        parts.append(f"{accelerator.num_processes} processes")
    return f"{text}, of {pictures} pictures ({' x '.join(parts)})"


def _rate(config: TrainConfig) -> str:
    if config.optimizer == "prodigy":
        return "found by prodigy"
    text = f"{config.learning_rate:g} for the deltas, {config.token_lr:g} for the trigger"
    return text if config.lr_scheduler == "constant" else f"{text}, {config.lr_scheduler}"


def _precision(config: TrainConfig, given: TrainConfig) -> str:
    name = "float32" if config.mixed_precision == "no" else config.mixed_precision
    text = f"{name}, {config.quantize} weights" if config.quantize else name
    if given.mixed_precision is not None or (name == "float32" and PRECISION not in os.environ):
        return text
    if PRECISION in os.environ:
        return f"{text} (as the launcher says)"
    return text if config.quantize else f"{text} (as the base was published)"


def _device(accelerator: Accelerator) -> str:
    device, count = accelerator.device, accelerator.num_processes
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"{name}, {count} processes" if count > 1 else name
