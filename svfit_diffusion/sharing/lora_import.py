"""A LoRA as a concept of the same base: its projection onto the singular basis.

A LoRA can map singular directions to each other, which a change of singular values cannot; so most
LoRAs of other programs lose nearly all of their energy, and the result states how much is kept.
What this program exported comes back unchanged, at its rank, and SVDiff's shifts of attention
projections fit exactly, at rank "full".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import find_source, layout, parse_rank, resolve_rank
from ..concept import Concept, Refused, printable, unpack_ranks
from ..families import base_name, recognise
from ..pipeline import base_fields, basis_of, with_self_check
from ..settings import RANK, check_common_size
from .edits import CommonFit, SpectralShift, project
from .lora_card import COMMON_SIZE, RANKS
from .lora_file import read_edits
from .lora_names import known_names


@dataclass(frozen=True)
class Imported:
    """A concept, and the share of its LoRA's energy (squared norm) that it keeps, 0 to 1.

    used: the number of the LoRA's modules that are projections of the concept. others: of the rest.
    """

    concept: Concept
    share: float
    used: int
    others: int


def import_lora(
    path: str | Path, pipe: Any, rank: int | str | None = None, trigger: str | None = None
) -> Imported:
    """Project a LoRA file of the base `pipe`, or SVDiff's shifts, onto its basis.

    rank: as for a training; default: 16, or that of an exported concept with a common vector, which
    comes back only so. trigger: words such as "sks dog"; default: those in the file. Raises
    ValueError that names the file and what is wrong with it, such as another base.
    """
    edits, metadata = read_edits(Path(path))
    path = printable(str(path))
    family = recognise(pipe)
    models = family.components(pipe)
    targets = {part: "both" if part == family.denoiser else "self" for part in models}
    plan = layout(models, targets)
    known = known_names(plan, family.name, edits, models)
    parts = {projection.part for held in known.values() for projection, _ in held}
    targets = {part: kind for part, kind in targets.items() if part in parts}
    _check_shapes(path, edits, known)
    plan = [projection for projection in plan if projection.part in parts]
    size, own = _exported(metadata, len(plan))
    ranks = own
    if rank is not None or not own:
        ranks = _ranks(plan, models, rank or RANK, family.dtype)
        size = size if ranks == own else 0
    models = {part: models[part] for part in targets}
    bases = basis_of(plan, ranks, models, family, folders={})
    common = CommonFit(family.denoiser, size) if size and family.denoiser in targets else None
    deltas, kept, total = project(edits, known, plan, bases, common)
    if not 0 < total < math.inf:
        raise ValueError(f"{path} is a LoRA whose edit is zero or not finite; nothing can be kept.")
    words = (trigger or metadata.get("modelspec.trigger_phrase", ""))[:200]
    token, _, noun = printable(words).strip().partition(" ")
    with np.errstate(over="ignore"):
        found = np.concatenate(deltas).astype(np.float16)
        vector = common.found.astype(np.float16) if common else None
    if not np.isfinite(found).all() or (common and not np.isfinite(vector).all()):
        raise ValueError(f"{path} changes the base by more than a concept's float16 can represent.")
    kind = "SVDiff" if isinstance(next(iter(edits.values())), SpectralShift) else "LoRA"
    concept = Concept(
        deltas=found,
        common=vector,
        rank=str(ranks[0] if rank is None and own else parse_rank(rank or RANK)),
        base=base_name(str(getattr(pipe.config, "_name_or_path", ""))),
        token=token,
        class_word=noun,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        training={"imported": kind, "energy": round(kept / total, 6)},
        **base_fields(models, targets, family, plan, ranks),
    )
    concept = with_self_check(concept, models, family)
    return Imported(concept, kept / total, len(known), len(edits) - len(known))


def _exported(metadata: dict[str, str], count: int) -> tuple[int, tuple[int, ...]]:
    """The size of the common vector of an exported concept, and its ranks; 0 and () where there is
    none to be found in this many projections.
    """
    text = metadata.get(COMMON_SIZE, "0")
    size = int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0
    try:
        check_common_size(size)
        ranks = unpack_ranks(metadata.get(RANKS, ""))
    except (ValueError, Refused):
        return 0, ()
    return (size, ranks) if size and len(ranks) == count else (0, ())


def _check_shapes(path: str, edits: dict, known: dict) -> None:
    if not known:
        raise ValueError(
            f"{path} has no attention projection of this base: for example, "
            f"{printable(next(iter(edits)), 80)!r} is none. It is a LoRA for another kind of base."
        )
    projections = [projection for held in known.values() for projection, _ in held]
    if len(set(projections)) != len(projections):
        raise ValueError(f"{path} has one projection under two names.")
    for module, ((projection, place), *_) in known.items():
        if problem := edits[module].shape_problem(place, projection):
            raise ValueError(
                f"{path}: {printable(module, 100)} {problem}; it is a LoRA for another base."
            )


def _ranks(plan: list, models: dict, rank: int | str, dtype: str | None) -> tuple[int, ...]:
    """The rank of each projection. A rule by energy needs the weights, others only their shapes."""
    rule = parse_rank(rank)
    if isinstance(rule, str) and rule != "full":
        names: dict[str, list[str]] = {}
        for p in plan:
            names.setdefault(p.part, []).append(p.local)
        sources = {part: find_source(models[part], held, dtype) for part, held in names.items()}
        weights = (sources[p.part].weight(p.local) for p in plan)
        return tuple(resolve_rank(weight.float(), rule) for weight in weights)
    sizes = (min(p.out_features, p.in_features) for p in plan)
    return tuple(size if rule == "full" else min(rule, size) for size in sizes)
