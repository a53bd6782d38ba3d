"""What a training has learned, as a concept: the values as the models now hold them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..concept import (
    PROBES,
    Concept,
    printable,
    replace_file,
    round_to_four_bits,
    round_vector,
    write_concept,
)
from ..families import base_name
from ..pipeline import concept_fields, trigger, with_self_check
from ..settings import RUN_FILE, TrainConfig, run_text
from ..sharing import push_to_hub
from .adapted_base import ADAPTER, COMMON, TOKEN, AdaptedBase
from .averaging import Average
from .runtime import restore, snapshot
from .subject import Subject

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A training's result: the concept, its file, and how the training went.

    steps: those that the concept holds. loss_before, loss_after: of the photos at fixed noise, by
    the base and with the concept as written. stopped: why it ended early. exit_status: 130 after
    Ctrl-C, 143 after SIGTERM, 1 after a NaN. advice: what to try, in sentences, where nothing was
    learned. length: how its length was found, where that was automatic. address: of the upload,
    where one was wanted.
    """

    concept: Concept
    path: Path
    steps: int
    loss_before: float
    loss_after: float
    stopped: str | None
    exit_status: int = 0
    advice: tuple[str, ...] = ()
    length: str = ""
    address: str = ""


def write_result(config: TrainConfig, concept: Concept, stopped: str | None) -> None:
    """Write a concept's file and, beside it, the settings that train it again."""
    write_concept(concept, config.concept_path)
    head = f"svfit train --config {RUN_FILE} --output_dir again    trains the same file again"
    if stopped:
        head += f"\nexcept that this training was stopped early ({printable(stopped)})"
    text = run_text(replace(config, created=concept.created), head)
    replace_file(config.concept_path.with_name(RUN_FILE), text.encode())


def upload(config: TrainConfig, path: Path) -> str:
    """Upload a concept file, as the configuration says; its address, "" where that failed, which is
    logged: the file is there all the same.
    """
    try:
        return push_to_hub(path, config.hub_model_id or config.name, token=config.hub_token)
    except ValueError as error:
        log.error("%s The concept itself is in %s.", error, path)
        return ""


def rounded_parameters(
    base: AdaptedBase, delta_bits: int, values: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The parameters as the file holds them: float16, or four bits. values: theirs, by name, if not
    the present ones.
    """
    found = {}
    for kind, group in base.parameter_groups().items():
        for name, parameter in group.items():
            value = parameter.detach() if values is None else values[name]
            if delta_bits == 4:
                vector = kind == COMMON or kind.endswith(TOKEN)
                rounded = round_vector if vector else round_to_four_bits
                found[name] = torch.from_numpy(rounded(value.cpu().numpy())).to(value)
            else:
                found[name] = value.half().float()
    return found


@contextlib.contextmanager
def as_written(base: AdaptedBase, delta_bits: int, average: Average) -> Iterator[None]:
    """For a while, the parameters as the file will hold them: what is shown and judged is what is
    shared.
    """
    parameters = base.parameters()
    kept = snapshot(parameters)
    restore(parameters, rounded_parameters(base, delta_bits, average.values()))
    try:
        yield
    finally:
        restore(parameters, kept)


def make_concept(
    config: TrainConfig, base: AdaptedBase, subject: Subject, steps: int, processes: int
) -> Concept:
    """The concept of a base whose parameters are `rounded_parameters`, after so many steps."""
    facts = {
        "steps": steps,
        "batch": config.train_batch_size * processes,
        "lr": config.learning_rate,
        "photos": len(subject.examples),
        "px": subject.resolution,
        "seed": config.seed,
    }
    words = subject.token, subject.class_word
    concept = unchecked_concept(config, base, words, facts)
    return with_self_check(concept, base.adapted, base.family)


def unchecked_concept(
    config: TrainConfig, base: AdaptedBase, words: tuple[str, str], facts: dict[str, float]
) -> Concept:
    """The concept as the models now are, with zeros for its self-check.

    words: trigger and class word. facts: of the training, for people to read.
    """
    fields = concept_fields(base.adapted, base.targets, base.family, ADAPTER)
    fields["packed"] = fields["packed_words"] = config.delta_bits == 4
    if not fields["packed"]:
        fields["deltas"] = fields["deltas"].astype(np.float16)
        if fields["common"] is not None:
            fields["common"] = fields["common"].astype(np.float16)
    if base.learners:
        rows = {part: _rows(base, part, config.delta_bits) for part in sorted(base.learners)}
        fields["trigger_rows"] = np.concatenate([r.ravel() for r in rows.values()])
        fields["trigger_shape"] = {part: r.shape for part, r in rows.items()}
        fields["outputs"] = {part: output.layers for part, output in base.outputs.items()}
    return Concept(
        rank=str(config.rank),
        base=base_name(config.pretrained_model_name_or_path),
        token=words[0],
        class_word=words[1],
        license=config.license,
        created=config.created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        training=facts,
        check=(0.0,) * PROBES,
        **fields,
    )


def _rows(base: AdaptedBase, part: str, delta_bits: int) -> np.ndarray:
    """The trigger's rows or vectors [tokens, width] of a text encoder, as the file holds them."""
    rows = trigger.get_rows(getattr(base.pipe, part), ADAPTER).numpy()
    if delta_bits == 4:
        return np.stack([round_vector(row) for row in rows])
    return rows.astype(np.float16)
