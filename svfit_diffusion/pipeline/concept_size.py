"""How large a concept of a base will be, from the base's configuration alone.

The models are built on PyTorch's meta device, where a tensor has a shape and no values, so FLUX
takes as little memory as Toybox; no weight is read or downloaded. The file's bytes are those of a
real concept file with zeros in it, with the trigger `sks dog` of one row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..adapter import (
    Memory,
    basis_bytes,
    factoring_memory,
    layout,
    parse_rank,
    values_and_outputs,
)
from ..concept import PROBES, Concept, to_bytes
from ..families import (
    Family,
    WordOutput,
    base_name,
    configuration_of,
    output_widths,
    skeleton,
)
from ..settings import TrainConfig


@dataclass(frozen=True)
class ConceptSize:
    """projections: component -> how many. values: singular values trained. common: numbers of the
    common vector. trigger: of the learned word. bytes: of the file. basis: bytes of the cached
    basis. weights: component -> numbers in it. memory: to compute the basis, on this machine as it
    is now.
    """

    family: str
    projections: dict[str, int]
    values: int
    common: int
    trigger: int
    bytes: int
    basis: int
    weights: dict[str, int]
    memory: Memory


def estimate_size(base: str, config: TrainConfig | None = None) -> ConceptSize:
    """Count a concept of a base, trained as `config` says, or as the default.

    base: "toybox", a diffusers folder (its weights may be missing), a checkpoint file, or a Hub id,
    of which only the configuration is downloaded. Raises ValueError for a rank that needs the
    weights' values.
    """
    config = config or TrainConfig()
    rule = parse_rank(config.rank)
    values = {text: parse_rank(config.rank_of_values(text)) for text in (False, True)}
    for given in (rule, *values.values()):
        if str(given).startswith("energy"):
            raise ValueError(
                f"rank {given} depends on the weights' values, and here only their shapes are "
                "read; pass a number or full."
            )
    family, models = skeleton(configuration_of(base))
    targets, text = {family.denoiser: config.attention}, config.train_text_encoder
    if text:
        targets |= {part: "self" for _, part in family.encoders if part in models}
    plan = layout(models, targets)
    own = {
        (part, name): r
        for part in targets
        for name, r in values_and_outputs(models[part], values[part != family.denoiser]).items()
    }
    rules = (own.get((p.part, p.local), rule) for p in plan)
    most = (min(p.out_features, p.in_features) for p in plan)
    ranks = tuple(m if r == "full" else min(r, m) for r, m in zip(rules, most, strict=True))
    sizes = [((p.out_features, p.in_features), r) for p, r in zip(plan, ranks, strict=True)]
    rows = {
        part: models[part].get_input_embeddings().weight.shape[1]
        for _, part in family.encoders
        if config.train_token and part in models
    }
    outputs = output_widths(configuration_of(base), family) if config.train_token else {}
    shapes = {part: (config.embedding_rows, width) for part, width in rows.items()}
    for output, width in outputs.items():
        shapes[output.encoder.model] = config.output_vectors, width
    return ConceptSize(
        family=family.name,
        projections={part: sum(p.part == part for p in plan) for part in targets},
        values=sum(ranks),
        common=config.common_size,
        trigger=sum(count * width for count, width in shapes.values()),
        bytes=len(to_bytes(_empty(base, config, family, targets, ranks, shapes, outputs))),
        basis=sum(basis_bytes(*size) for size in sizes),
        weights={part: sum(w.numel() for w in m.parameters()) for part, m in models.items()},
        memory=factoring_memory(sizes),
    )


def _empty(
    base: str,
    config: TrainConfig,
    family: Family,
    targets: dict,
    ranks: tuple[int, ...],
    shapes: dict[str, tuple[int, int]],
    outputs: Iterable[WordOutput],
) -> Concept:
    """A concept of that layout, all zeros, with the header that a training writes."""
    packed, size = config.delta_bits == 4, config.common_size
    numbers = sum(count * width for count, width in shapes.values())
    rate = replace(config, pretrained_model_name_or_path=base).rates[0]
    chosen = {"batch": config.train_batch_size, "lr": rate, "seed": config.seed}
    return Concept(
        deltas=np.zeros(sum(ranks), np.float32 if packed else np.float16),
        common=np.zeros(size, np.float32 if packed else np.float16) if size else None,
        packed=packed,
        packed_words=packed,
        ranks=ranks,
        rank=str(ranks[0]),
        layout="0" * 32,
        base=base_name(base),
        family=family.name,
        targets=targets,
        fingerprints=dict.fromkeys(targets, "0" * 32),
        token="sks",
        class_word="dog",
        trigger_rows=np.zeros(numbers, np.float16) if shapes else None,
        trigger_shape=shapes,
        outputs={output.encoder.model: output.layers for output in outputs},
        training={"steps": 200, "photos": 5, "px": 512} | chosen,
        created="2026-01-01T00:00:00Z",
        check=(0.0,) * PROBES,
    )
