"""The self-check of a concept (concept/self_check.py), in the bases that were found for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from ..concept import (
    PROBES,
    Concept,
    self_check_common,
    self_check_deviation,
    self_check_rows,
)
from .basis import Basis


class Place(Protocol):
    """A projection: its canonical name, its component, and its name there."""

    name: str
    part: str
    local: str


def check_table(concept: Concept, plan: Iterable[Place], bases: Iterable[Basis]) -> np.ndarray:
    """What each of the concept's deltas, then each number of its common vector, adds to the
    self-check: [8, values], float64. plan: its projections, in the file's order, and their bases.
    """
    rows, size = [], concept.common_size
    common = np.zeros((PROBES, size))
    for place, basis in zip(plan, bases, strict=True):
        U, V = basis.U.numpy(), basis.V.numpy()
        rows.append(self_check_rows(place.name, U, V))
        if size and place.part == concept.denoiser:
            ties = basis.ties()
            common += self_check_common(place.name, place.local, size, U, len(V), ties)
    return np.concatenate([*rows, common], axis=1)


def measure(values: np.ndarray, table: np.ndarray) -> tuple[float, ...]:
    """The self-check of a concept's values [n], in the bases of the table [8, n]."""
    return tuple((table @ values.astype(np.float64)).astype(np.float32).tolist())


def basis_deviation(concept: Concept, table: np.ndarray) -> float:
    """How far the concept's edit is off in the bases of a table, relative to its norm: that of the
    deltas, and what the table estimates of the common vector's part.
    """
    values, deltas = concept.edit_values, concept.deltas.size
    common = np.mean(np.square(table[:, deltas:]) @ np.square(values[deltas:]))
    norm = np.sqrt(np.square(values[:deltas]).sum() + common)
    return self_check_deviation(measure(values, table), concept.check, float(norm))
