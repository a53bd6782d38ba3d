"""What a checkpoint holds of a training, and how a training goes on from one.

On the same machine, with the same build and number of threads, it goes on to the last bit.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor

from ..data import by_main
from ..pipeline import concept_fields
from ..settings import AUTO, TrainConfig
from .adapted_base import ADAPTER, AdaptedBase
from .checkpoints import Checkpoints, changed_defaults, pack_optimizer, unpack_optimizer
from .runtime import restore, resume_schedule
from .subject import Subject

log = logging.getLogger(__name__)

MUST_MATCH = (
    *("rank", "value_rank", "text_encoder_rank", "attention", "train_text_encoder"),
    *("train_token", "common_size", "num_vectors", "seed"),
)
# Where things lie, and what is shown: none of it changes what is learned.
MAY_CHANGE = frozenset(
    {
        *("pretrained_model_name_or_path", "revision", "variant", "instance_data_dir"),
        *("dataset_name", "dataset_config_name", "image_column", "caption_column", "cache_dir"),
        *("class_data_dir", "mask_data_dir", "output_dir", "sample_batch_size", "offload"),
        *("validation_base", "validation_prompt", "num_validation_images", "validation_steps"),
        *("push_to_hub", "hub_model_id", "hub_token"),
        *("checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint"),
        *("validation_epochs", "report_to", "logging_dir", "license", "created"),
    }
)


class Identity:
    """What must be the same for a training to go on, and what is reported when it is not."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, base: AdaptedBase, subject: Subject
    ) -> None:
        self.settings = {k: v for k, v in asdict(config).items() if k not in MAY_CHANGE}
        fields = concept_fields(base.adapted, base.targets, base.family, ADAPTER)
        self.base = {key: fields[key] for key in ("layout", "fingerprints")}
        self.words = {"trigger": subject.token, "class word": subject.class_word}
        self.photos = subject.digest
        self.beside = {
            "masks": _digest(subject.examples.masks or ()),
            "class images": subject.class_digest,
        }
        self.processes = accelerator.num_processes

    def written(self) -> dict[str, Any]:
        """What a checkpoint stores of it."""
        return dict(vars(self))

    def check(self, name: str, written: dict[str, Any]) -> None:
        """ValueError where the checkpoint `name` is of another training; warns of the rest."""
        settings = {"common_size": 0} | written["settings"]  # checkpoints of before had none
        for key in MUST_MATCH:
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
        held = written.get("beside", self.beside)  # checkpoints of before do not have it
        others = [what for what, digest in self.beside.items() if held.get(what) != digest]
        if self.settings["max_train_steps"] == AUTO and (
            settings.get("max_train_steps") != AUTO
            or written["photos"] != self.photos
            or "masks" in others
        ):
            raise ValueError(
                f"{name} was trained for a number of steps, or on other photos or masks, so that "
                f"--max_train_steps {AUTO} cannot compare its losses with those to come; pass a "
                "number of steps, or train into another folder."
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
        changed += [f"other {what}" for what in others]
        if changed:
            log.warning("%s goes on with %s.", name, ", ".join(changed))


def _digest(tensors: Sequence[Tensor]) -> str:
    """Hash (hex, 128 bits) over tensors in their order; "" of none."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()[:32] if tensors else ""


def save_checkpoint(training: Any) -> None:
    """Write a checkpoint of the training as it is now, by its main process."""
    by_main(training.accelerator, lambda: _write_checkpoint(training))


def _write_checkpoint(training: Any) -> None:
    scaler = training.accelerator.scaler
    settings = {"step": training.step, **training.identity.written()}
    settings["backgrounds"] = training.subject.backgrounds
    settings["optimizer"] = changed_defaults(training.optimizer)
    settings["scaler"] = scaler.state_dict() if scaler else {}
    tensors = dict(training.parameters) | pack_optimizer(training.optimizer)
    tensors |= training.average.state()
    if training.length:
        best, settings["length"] = training.length.state()
        tensors |= best
    training.checkpoints.save(training.step, tensors, settings)


class Found(NamedTuple):
    """A checkpoint to go on from, and what it holds."""

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def find_checkpoint(wanted: str | None, store: Checkpoints, identity: Identity) -> Found | None:
    """The checkpoint that the configuration names, if it names one; ValueError where the training
    cannot go on from it.
    """
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
    identity.check(path.name, settings)
    return Found(path, tensors, settings)


def known_backgrounds(found: Found | None, subject: Subject) -> tuple[str, ...]:
    """The phrases that completed the captions of a checkpoint's training, if of the same photos."""
    settings = found.settings if found else {}
    same = settings.get("photos") == subject.digest
    return tuple(settings.get("backgrounds", ())) if same else ()


def resume(training: Any, found: Found) -> None:
    """Go on from a checkpoint."""
    path, tensors, settings = found
    restore(training.parameters, tensors)
    training.guard.remember()
    unpack_optimizer(training.optimizer, tensors)
    for group, values in zip(
        training.optimizer.param_groups, settings.get("optimizer", []), strict=False
    ):
        group.update(values)
    if training.accelerator.scaler and settings["scaler"]:
        training.accelerator.scaler.load_state_dict(settings["scaler"])
    if training.length:
        training.length.load_state(tensors, settings["length"])
    training.step = settings["step"]
    training.average.load_state(tensors, training.step)
    resume_schedule(training.schedule, training.optimizer, training.step)
    log.info("going on from %s.", path)
    if training.finished:
        log.warning(
            "%s has all %d steps, so nothing is left to train; pass a larger number of "
            "--max_train_steps to go on.",
            path.name,
            min(training.step, training.config.most_steps),
        )
