"""Whether the basis found here is the one that a concept was made in, by its self-check."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from ..adapter import Basis, Projection, basis_deviation, load_bases
from ..concept import (
    COARSE_TOLERANCE,
    SELF_CHECK_TOLERANCE,
    Concept,
    printable,
)
from ..families import Family


def basis_of(
    plan: list[Projection],
    ranks: tuple[int, ...],
    models: Mapping[str, nn.Module],
    family: Family,
    folders: Mapping[str, str],
) -> Iterator[Basis]:
    """The basis of each projection of the plan, at its rank, in the plan's order."""
    rules: dict[str, dict[str, int]] = {part: {} for part in models}
    for projection, rank in zip(plan, ranks, strict=True):
        rules[projection.part][projection.local] = rank
    with without_basis_warning():
        found = {
            part: load_bases(models[part], rule, family.dtype, folders.get(part))
            for part, rule in rules.items()
            if rule
        }
    return (found[p.part][p.local] for p in plan)


@contextlib.contextmanager
def without_basis_warning() -> Iterator[None]:
    """Silence the warning about the basis's source: the self-check reports the exact error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the basis is taken from")
        yield


def check_basis(concept: Concept, table: np.ndarray, unknown: Sequence[str] = ()) -> None:
    """Raise ValueError where the basis gives another edit than the file's self-check says.

    unknown: components whose weights are not those that the concept was trained on, to the bit.
    """
    if not concept.check:
        return
    error = basis_deviation(concept, table)
    if error <= SELF_CHECK_TOLERANCE:
        return
    base, parts = printable(concept.base, 60), " and the ".join(unknown)
    if not unknown:
        raise ValueError(
            f"the file's self-check fails: in the basis found here its edit is off by {error:.1%} "
            f"though the weights are those of {base!r}; the file is damaged, or another program "
            "wrote it wrongly."
        )
    if error > COARSE_TOLERANCE:
        raise ValueError(
            f"this concept was trained on {base!r}, but the {parts} of the pipeline has other "
            f"weights, or rounded ones, on which it would be off by {error:.1%}; load {base!r} "
            "from its folder or the Hub, or, if these are its weights in fewer bits or fine-tuned, "
            f"pass basis_from={base!r}."
        )
    warnings.warn(
        f"the {parts} was loaded without the files of {base!r}, in another precision, in fewer "
        f"bits or changed: this concept's edit is off by {error:.2%}, as measured by its "
        f"self-check. Load {base!r} from its folder, or pass basis_from={base!r}, to be exact.",
        stacklevel=4,
    )
