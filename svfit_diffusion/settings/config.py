"""TrainConfig: all settings of one training, flat, checked against one another."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from .inputs import BaseSettings, LearnedSettings, PhotoSettings, WordSettings
from .options import AUTO, TOYBOX_RATES, USUAL_RATES, check_common_size
from .process import (
    FileSettings,
    LossSettings,
    MemorySettings,
    PreviewSettings,
    ScheduleSettings,
)
from .words import complete_words

PRESETS = {
    "tiny": {},
    "tiniest": {"rank": "4", "common_size": 0, "num_vectors": 1},
    "paper": {
        "rank": "energy=0.99", "common_size": 0, "train_token": False, "delta_bits": 16,
        "caption_backgrounds": False,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    PhotoSettings,
    WordSettings,
    BaseSettings,
    LearnedSettings,
    ScheduleSettings,
    LossSettings,
    MemorySettings,
    PreviewSettings,
    FileSettings,
):
    """Settings of one training. ValueError names the setting that cannot be."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "offload" and isinstance(value, bool):
                value = "model" if value else "no"
                object.__setattr__(self, item.name, value)
            if item.metadata.get("path") and value and value.startswith("~"):
                object.__setattr__(self, item.name, str(Path(value).expanduser()))
            _check(item.name, value, item.default, **item.metadata)
        check_common_size(self.common_size)
        self._check_length()
        self._check_memory()
        if self.resolution and self.resolution % 8:
            raise ValueError(f"resolution is {self.resolution}, but must be a multiple of 8.")
        if self.aspect_ratio_buckets and not self.use_aspect_ratio_buckets:
            raise ValueError("aspect_ratio_buckets is used only with use_aspect_ratio_buckets.")
        if self.with_prior_preservation and not self.class_data_dir:
            raise ValueError("with_prior_preservation needs class_data_dir, a folder to fill.")
        if self.validation_base and not self.validation_prompt:
            raise ValueError("validation_base generates the validation_prompt; pass that too.")
        if self.instance_data_dir and self.dataset_name:
            raise ValueError("photos come from instance_data_dir or from dataset_name, not both.")
        if self.scale_lr and self.optimizer == "prodigy":
            raise ValueError("prodigy finds its rate itself; leave scale_lr out.")
        if self.report_to in ("wandb", "all") and self.hub_token:
            raise ValueError(
                "hub_token beside report_to wandb could be logged there; run `hf auth login` and "
                "leave it out."
            )

        if self.created:
            _check_time(self.created)

    def _check_length(self) -> None:
        steps = self.max_train_steps
        if steps != AUTO and not (isinstance(steps, int) and steps > 0):
            raise ValueError(
                f"max_train_steps is {steps!r}, but must be a number above 0, or {AUTO!r}."
            )
        if steps == AUTO and self.num_train_epochs:
            raise ValueError(f"max_train_steps is {AUTO!r}; leave out num_train_epochs beside it.")
        if steps == AUTO and not self.lr_scheduler.startswith("constant"):
            raise ValueError(
                f"the rates of lr_scheduler {self.lr_scheduler!r} fall towards a last step, which "
                f"max_train_steps {AUTO!r} does not know; pass a number of steps, or the scheduler "
                "'constant' or 'constant_with_warmup'."
            )

    def _check_memory(self) -> None:
        """What is copied for a layer's or a block's work is kept for the gradient, unless it is
        computed again.
        """
        copied = {"quantize fp8": self.quantize == "fp8", "offload block": self.offload == "block"}
        for name in (name for name, wanted in copied.items() if wanted):
            if not self.gradient_checkpointing:
                raise ValueError(
                    f"{name} without gradient_checkpointing would keep a copy of each weight until "
                    "the gradient is computed, and so save nothing; pass --gradient_checkpointing."
                )
        if copied["offload block"] and self.quantize in ("4bit", "int8"):
            raise ValueError(
                f"offload block copies plain weights and those of quantize fp8, and {self.quantize}"
                " weights are another package's; pass --quantize fp8, or --offload model."
            )

    @property
    def name(self) -> str:
        """The concept's name: its folder's."""
        return Path(self.output_dir).resolve().name

    @property
    def concept_path(self) -> Path:
        """Where the concept file is written."""
        return Path(self.output_dir) / f"{self.name}.safetensors"

    @property
    def names_backgrounds(self) -> bool:
        """Whether the base is asked what is behind the subject: on Toybox, unless told otherwise.

        How clear an answer must be (training/backgrounds.py) was chosen there.
        """
        return self.on_toybox if self.caption_backgrounds is None else self.caption_backgrounds

    @property
    def on_toybox(self) -> bool:
        """Whether the base is the default's, on which defaults were measured."""
        return self.pretrained_model_name_or_path == TrainConfig.pretrained_model_name_or_path

    @property
    def rates(self) -> tuple[float, float]:
        """learning_rate and token_lr, where they were left out those of the base."""
        rate, token_rate = TOYBOX_RATES if self.on_toybox else USUAL_RATES
        return self.learning_rate or rate, self.token_lr or token_rate

    def words(self) -> tuple[str, str, str]:
        """(token, class word, instance prompt), completed from one another."""
        return complete_words(self.placeholder_token, self.initializer_token, self.instance_prompt)

    def in_steps(self, photos: int, processes: int) -> TrainConfig:
        """These settings with epochs as steps, and with the learning rates that they mean; of
        prodigy, only those that were asked for.

        photos: how many there are. processes: how many train together.
        """
        accumulated = self.gradient_accumulation_steps or 1
        batches = math.ceil(photos * self.repeats / (self.train_batch_size * processes))
        epoch, changes = math.ceil(batches / accumulated), {}
        if self.num_train_epochs:
            changes |= {"max_train_steps": self.num_train_epochs * epoch, "num_train_epochs": None}
        if self.validation_epochs:
            changes |= {"validation_steps": self.validation_epochs * epoch}
            changes |= {"validation_epochs": None}
        if self.optimizer != "prodigy":
            changes |= dict(zip(("learning_rate", "token_lr"), self.rates, strict=True))
        if self.scale_lr:
            changes["learning_rate"] *= accumulated * self.train_batch_size * processes
            changes["scale_lr"] = False
        return replace(self, **changes)


GROUPS = TrainConfig.__bases__


def _check_time(text: str) -> None:
    """ValueError for a text that is no date and time as concept files state it."""
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise ValueError(
            f"created is {text!r}, but must be a date and time in UTC, such as "
            "2026-01-31T12:00:00Z."
        ) from None


def _check(
    name: str,
    value: object,
    default: object,
    *,
    choices: tuple | None = None,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    **_: object,
) -> None:
    """ValueError where a setting's value is not what its option allows."""
    if value is None and default is None:
        return
    if above is not None and not value > above:
        raise ValueError(f"{name} is {value}, but must be above {above}.")
    if least is not None and not value >= least:
        raise ValueError(f"{name} is {value}, but must not be below {least}.")
    if below is not None and not value < below:
        raise ValueError(f"{name} is {value}, but must be below {below}.")
    if choices and value not in (*choices, default):
        raise ValueError(f"{name} is {value!r}, but must be one of {choices}.")
