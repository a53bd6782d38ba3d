"""TrainConfig: all settings of one training, flat, checked against one another."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from .groups import (
    AUTO,
    BaseSettings,
    FileSettings,
    LearnedSettings,
    LossSettings,
    MemorySettings,
    PhotoSettings,
    PreviewSettings,
    ScheduleSettings,
    WordSettings,
)
from .words import complete_words

PRESETS = {
    "tiny": {},
    "paper": {
        "rank": "energy=0.99", "train_token": False, "delta_bits": 16,
        "caption_backgrounds": False, "learning_rate": 2e-2,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    BaseSettings,
    PhotoSettings,
    WordSettings,
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
            _check(item.name, getattr(self, item.name), item.default, **item.metadata)
        self._check_length()
        if self.resolution and self.resolution % 8:
            raise ValueError(f"resolution is {self.resolution}, but must be a multiple of 8.")
        if self.aspect_ratio_buckets and not self.use_aspect_ratio_buckets:
            raise ValueError("aspect_ratio_buckets is used only with use_aspect_ratio_buckets.")
        if self.with_prior_preservation and not self.class_data_dir:
            raise ValueError("with_prior_preservation needs class_data_dir, a folder to fill.")

    def _check_length(self) -> None:
        steps = self.max_train_steps
        if steps != AUTO and not (isinstance(steps, int) and steps > 0):
            raise ValueError(
                f"max_train_steps is {steps!r}, but must be a number above 0, or {AUTO!r}."
            )
        if steps == AUTO and not self.lr_scheduler.startswith("constant"):
            raise ValueError(
                f"the rates of lr_scheduler {self.lr_scheduler!r} fall towards a last step, which "
                f"max_train_steps {AUTO!r} does not know; pass a number of steps, or the scheduler "
                "'constant' or 'constant_with_warmup'."
            )

    @property
    def name(self) -> str:
        """The concept's name: its folder's."""
        return Path(self.output_dir).resolve().name

    @property
    def concept_path(self) -> Path:
        """Where the concept file is written."""
        return Path(self.output_dir) / f"{self.name}.safetensors"

    def words(self) -> tuple[str, str, str]:
        """(token, class word, instance prompt), completed from one another."""
        return complete_words(self.placeholder_token, self.initializer_token, self.instance_prompt)


def _check(
    name: str,
    value: object,
    default: object,
    *,
    choices: tuple | None = None,
    above: float | None = None,
    least: float | None = None,
    **_: object,
) -> None:
    """ValueError where a setting's value is not what its option allows."""
    if above is not None and value is not None and not value > above:
        raise ValueError(f"{name} is {value}, but must be above {above}.")
    if least is not None and not value >= least:
        raise ValueError(f"{name} is {value}, but must not be below {least}.")
    if choices and value not in (*choices, default):
        raise ValueError(f"{name} is {value!r}, but must be one of {choices}.")
