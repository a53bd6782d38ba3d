"""Whether a concept fits a ComfyUI model, and the basis of its deltas there.

The same is asked as by svfit_diffusion.pipeline: family, parts, fingerprints of the published
weights, layout of the projections, and at last the file's self-check in the basis that was found.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from svfit_diffusion.adapter import Basis, basis_deviation, check_table
from svfit_diffusion.concept import (
    COARSE_TOLERANCE,
    SELF_CHECK_TOLERANCE,
    Concept,
    layout_hash,
    printable,
)

from .layout import Part, family_of
from .weights import (
    bases,
    bits,
    cached_bases,
    cast_error,
    fingerprint,
    is_exact,
    is_readable,
    shape_of,
)

SHOWN = 60  # characters of a file's text in a sentence
CAST = 0.01  # by which weights in fewer bits differ from the published ones, relative, at most


@dataclass(frozen=True)
class Origin:
    """Where the basis of a component comes from.

    known: the fingerprint of its weights, "" where none was computed. rounded: whether they were
    loaded in a precision that does not hold the published one, so that it cannot be compared.
    """

    part: Part
    known: str
    rounded: bool


class Edited(NamedTuple):
    """A projection that a concept edits: canonical name, component, its name there, and rank."""

    name: str
    part: str
    local: str
    rank: int


def check_family(concept: Concept, model: Any) -> str:
    """The family of a MODEL; ValueError where the concept is of another one."""
    family = family_of(model.model)
    if concept.family != family:
        raise ValueError(
            f"this concept was trained on {_base(concept)!r} of family "
            f"{printable(concept.family, SHOWN)!r}, but the model is of family {family!r}; load "
            "the concept's own base."
        )
    return family


def check_parts(concept: Concept, parts: Mapping[str, Part], clip: Any) -> None:
    """ValueError where the concept changes a component that is not there."""
    needed = {*concept.targets, *concept.trigger_shape} - {*concept.outputs}
    if missing := sorted(needed - set(parts)):
        there = "no CLIP is connected" if clip is None else "there is no such part"
        raise ValueError(
            f"this concept changes {missing[0][:SHOWN]!r}, but {there}; connect the MODEL and the "
            f"CLIP of its base {_base(concept)!r}."
        )


def origin_of(concept: Concept, name: str, part: Part, dtype: str) -> Origin:
    """Whether a component has the weights that the concept was trained on; ValueError if not."""
    known = fingerprint(part, dtype) if bits(part) >= 16 else ""
    if known == concept.fingerprints[name]:
        return Origin(part, known, False)
    if is_exact(part, dtype) or not concept.check:
        raise ValueError(_wrong_base(concept, name, part))
    return Origin(part, known, True)


def plan_of(concept: Concept, parts: Mapping[str, Part]) -> list[Edited]:
    """The projections in the file's order; ValueError where they are not those of the file."""
    names = sorted(
        (f"{part}.{local}", part, local)
        for part, attention in concept.targets.items()
        for local in parts[part].names(attention)
    )
    if len(names) == len(concept.ranks):
        plan = [Edited(*name, rank) for name, rank in zip(names, concept.ranks, strict=True)]
        sizes = ((e.name, *shape_of(parts[e.part], e.local), e.rank) for e in plan)
        if concept.layout == layout_hash(sizes):
            return plan
    raise ValueError(
        f"this concept's {len(concept.ranks)} projections are not those of the model, which has "
        f"{len(names)}; it was trained on {_base(concept)!r}."
    )


def bases_in(
    concept: Concept, name: str, origin: Origin, plan: Iterable[Edited], dtype: str
) -> dict[str, Basis]:
    """Projection -> basis, of one component. ValueError where it can be had from nowhere."""
    ranks = {edited.local: edited.rank for edited in plan if edited.part == name}
    if not origin.rounded:
        return bases(origin.part, ranks, dtype, origin.known)
    found = cached_bases(origin.part, ranks, dtype, concept.fingerprints[name])
    if found is not None:
        _check_cast(concept, name, origin.part, found)
        return found
    if origin.known:
        return bases(origin.part, ranks, dtype, origin.known)
    raise ValueError(
        f"the {name} was loaded in fewer than 16 bits, from which the basis of {_base(concept)!r} "
        f"cannot be computed; load the concept once with {_base(concept)!r} in {dtype}, which is "
        f"remembered, or connect that to {_socket(origin.part)}."
    )


def check_basis(
    concept: Concept,
    plan: Sequence[Edited],
    found: Mapping[str, Mapping[str, Basis]],
    rounded: Sequence[str],
) -> None:
    """ValueError where the bases give another edit than the file's self-check says.

    rounded: components whose weights could not be compared.
    """
    if not concept.check:
        return
    bases = (found[e.part][e.local] for e in plan)
    error = basis_deviation(concept, check_table(concept, plan, bases))
    if error <= SELF_CHECK_TOLERANCE:
        return
    if not rounded:
        raise ValueError(
            f"the file's self-check fails: in the basis found here its edit is off by {error:.1%} "
            f"though the weights are those of {_base(concept)!r}; the file is damaged, or another "
            "program wrote it wrongly."
        )
    if error > COARSE_TOLERANCE:
        raise ValueError(
            f"the {rounded[0]} was loaded in a precision that rounds its weights, or has other "
            f"ones, on which this concept of {_base(concept)!r} would be off by {error:.1%}; load "
            f"it once with {_base(concept)!r} as published, which is remembered."
        )
    logging.warning(
        "SVFit: the %s was loaded in a precision that rounds its weights: this concept's edit is "
        "off by %.2f %%, as measured by its self-check.",
        rounded[0],
        100 * error,
    )


def _check_cast(concept: Concept, name: str, part: Part, found: Mapping[str, Basis]) -> None:
    """ValueError where loaded weights are not those of the bases in fewer bits."""
    if not is_readable(part):
        logging.warning(
            "SVFit: the %s is quantised in a form that cannot be read here, so whether it is that "
            "of %s was not checked.",
            name,
            _base(concept),
        )
        return
    if (error := cast_error(part, found)) > CAST:
        raise ValueError(_wrong_base(concept, name, part))
    logging.warning(
        "SVFit: the %s was loaded in a precision that rounds its weights; the basis of %s is taken "
        "from the cache, from which they differ by %.2f %%.",
        name,
        _base(concept),
        100 * error,
    )


def _wrong_base(concept: Concept, name: str, part: Part) -> str:
    own, socket = _base(concept), _socket(part)
    return (
        f"this concept was trained on {own!r}, but the {name} that is connected has other weights; "
        f"load that base, or, if this is a fine-tuned version of it, connect {own!r} to {socket}."
    )


def _socket(part: Part) -> str:
    """The input of the node that takes another base's component."""
    return "basis_clip" if part.encoder else "basis_model"


def _base(concept: Concept) -> str:
    return printable(concept.base, SHOWN)
