"""What a training has learned, as a concept: the values as the models now hold them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..concept import Concept, round_to_four_bits
from ..families import base_name
from ..pipeline import concept_fields, trigger, with_self_check
from .subject import ADAPTER


def rounded_parameters(training: Any) -> dict[str, Tensor]:
    """A training's parameters as the file holds them: float16, deltas in four bits if wanted."""
    four, found = training.config.delta_bits == 4, {}
    for kind, group in training.subject.parameters().items():
        for name, parameter in group.items():
            value = parameter.detach()
            if four and kind != "token":
                found[name] = torch.from_numpy(round_to_four_bits(value.cpu().numpy())).to(value)
            else:
                found[name] = value.half().float()
    return found


def make_concept(training: Any) -> Concept:
    """The concept of a training whose values are rounded as in the file, by `as_written`."""
    config, subject = training.config, training.subject
    models = {part: getattr(subject.pipe, part) for part in subject.targets}
    fields = concept_fields(models, subject.targets, subject.family, ADAPTER)
    fields["packed"] = config.delta_bits == 4
    if not fields["packed"]:
        fields["deltas"] = fields["deltas"].astype(np.float16)
    if subject.ids:
        rows = {
            part: trigger.get_rows(getattr(subject.pipe, part), ADAPTER).half().numpy()
            for part in sorted(subject.ids)
        }
        fields["trigger_rows"] = np.concatenate([r.ravel() for r in rows.values()])
        fields["trigger_shape"] = {part: r.shape for part, r in rows.items()}
    concept = Concept(
        rank=str(config.rank),
        base=base_name(config.pretrained_model_name_or_path),
        token=subject.token,
        class_word=subject.class_word,
        license=config.license,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        training={
            "steps": training.step,
            "batch": config.train_batch_size * training.accelerator.num_processes,
            "lr": config.learning_rate,
            "photos": len(subject.examples),
            "px": subject.resolution,
            "seed": config.seed,
        },
        **fields,
    )
    return with_self_check(concept, models, subject.family)
