"""What a checkpoint holds of a training, and how a training goes on from one.

On the same machine, with the same build and number of threads, it goes on to the last bit.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .backgrounds import complete
from .checkpoints import pack_optimizer, unpack_optimizer
from .matching import collect
from .runtime import copied, restore, resume_schedule
from .settings import AUTO
from .subject import ADAPTER

log = logging.getLogger(__name__)

SHAPING = (
    *("rank", "text_encoder_rank", "attention", "train_text_encoder", "train_token"),
    *("num_vectors", "seed"),
)
# Where things lie, and what is looked at: none of it changes what is learned.
ELSEWHERE = frozenset(
    {
        *("pretrained_model_name_or_path", "revision", "variant", "instance_data_dir"),
        *("class_data_dir", "mask_data_dir", "output_dir", "sample_batch_size", "offload"),
        *("validation_prompt", "num_validation_images", "validation_steps"),
        *("checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint"),
        *("report_to", "logging_dir", "license"),
    }
)


class Shape:
    """What must be the same for a training to go on, and what is told when it is not."""

    def __init__(self, training: Any) -> None:
        config, subject = training.config, training.subject
        self.settings = {k: v for k, v in asdict(config).items() if k not in ELSEWHERE}
        models = {part: getattr(subject.pipe, part) for part in subject.targets}
        fields = collect(models, subject.targets, subject.family, ADAPTER)
        self.base = {key: fields[key] for key in ("layout", "fingerprints")}
        self.words = {"trigger": subject.token, "class word": subject.class_word}
        self.photos = subject.digest
        self.processes = training.accelerator.num_processes

    def written(self) -> dict[str, Any]:
        """It as a checkpoint keeps it."""
        return dict(vars(self))

    def check(self, name: str, written: dict[str, Any]) -> None:
        """ValueError where the checkpoint `name` is of another training; warns of the rest."""
        settings = written["settings"]
        for key in SHAPING:
            if settings.get(key) != self.settings[key]:
                raise ValueError(
                    f"{name} was trained with --{key} {settings.get(key)}, not "
                    f"{self.settings[key]}; resume with the same, or train into another folder."
                )
        for key, value in self.words.items():
            if written["words"].get(key) != value:
                raise ValueError(
                    f"{name} was trained with the {key} {written['words'].get(key)!r}, not "
                    f"{value!r}; resume with the same, or train into another folder."
                )
        if written["base"] != self.base:
            raise ValueError(
                f"{name} was trained on another base than this one; resume on the same, or train "
                "into another folder."
            )
        if self.settings["max_train_steps"] == AUTO and (
            settings.get("max_train_steps") != AUTO or written["photos"] != self.photos
        ):
            raise ValueError(
                f"{name} was trained on photos of which none, or another, was held out, so "
                f"--max_train_steps {AUTO} cannot go on from it; pass a number of steps, or train "
                "into another folder."
            )
        changed = [
            f"{key} {value} instead of {settings.get(key)}"
            for key, value in self.settings.items()
            if settings.get(key) != value
        ]
        if written["processes"] != self.processes:
            changed.append(f"{self.processes} processes instead of {written['processes']}")
        if written["photos"] != self.photos:
            changed.append("other photos or captions")
        if changed:
            log.warning("%s goes on with %s.", name, ", ".join(changed))


def save(training: Any) -> None:
    """Write a checkpoint of the training as it stands, by its main process."""
    training.accelerator.wait_for_everyone()
    if not training.accelerator.is_main_process:
        return
    scaler = training.accelerator.scaler
    settings = {"step": training.step, **training.shape.written()}
    settings["backgrounds"] = training.subject.backgrounds
    settings["scaler"] = scaler.state_dict() if scaler else {}
    tensors = dict(training.named) | pack_optimizer(training.optimizer)
    if training.length:
        best, settings["length"] = training.length.packed()
        tensors |= best
    training.checkpoints.save(training.step, tensors, settings)


class Found(NamedTuple):
    """A checkpoint to go on from, and what it holds."""

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def find(training: Any) -> Found | None:
    """The checkpoint that the configuration names, if it names one; ValueError where the training
    cannot go on from it.
    """
    wanted, store = training.config.resume_from_checkpoint, training.checkpoints
    if not wanted:
        if held := store.held():
            log.warning(
                "training starts anew: its first checkpoint replaces %s of an earlier training. To "
                "go on with that one, pass --resume_from_checkpoint latest.",
                ", ".join(path.name for path in held),
            )
        return None
    held = store.load(wanted)
    if held is None:
        log.warning("%s holds no checkpoint yet; training starts anew.", store.folder)
        return None
    path, (tensors, settings) = held
    training.shape.check(path.name, settings)
    return Found(path, tensors, settings)


def recall(training: Any) -> bool:
    """Complete the captions as the checkpoint's training did, if it did so for the same photos."""
    settings, subject = training.found.settings if training.found else {}, training.subject
    backgrounds = settings.get("backgrounds")
    if not backgrounds or settings["photos"] != subject.digest:
        return False
    complete(subject, backgrounds)
    return True


def resume(training: Any) -> None:
    """Go on from the checkpoint that was found, if one was."""
    if training.found is None:
        return
    path, tensors, settings = training.found
    restore(training.named, tensors)
    training.good = copied(training.named)
    unpack_optimizer(training.optimizer, tensors)
    if training.accelerator.scaler and settings["scaler"]:
        training.accelerator.scaler.load_state_dict(settings["scaler"])
    if training.length:
        training.length.unpack(tensors, settings["length"])
    training.step = settings["step"]
    resume_schedule(training.schedule, training.optimizer, training.step)
    log.info("going on from %s.", path)
    if training.ended:
        log.warning(
            "%s has all %d steps, so nothing is left to train; pass a larger number of "
            "--max_train_steps to go on.",
            path.name,
            min(training.step, training.config.most_steps),
        )
