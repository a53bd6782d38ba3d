"""What other programs train, projected onto the singular directions of a weight.

A LoRA (arXiv 2106.09685) changes a weight by scale * up @ down, SVDiff (arXiv 2303.11305) its
singular values by shifts, which are a concept's deltas already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..adapter import Basis, Projection
from .lora_names import Place


@dataclass(frozen=True)
class LowRank:
    """scale * up @ down, of down [q, in] and up [out, q]; convolutions are flattened."""

    down: Tensor
    up: Tensor
    scale: float

    def shape_problem(self, place: Place, projection: Projection) -> str:
        """In which way it does not fit a weight, as a clause; empty where it does."""
        got, wanted = (len(self.up), self.down.shape[1]), (place.rows, projection.in_features)
        if got == wanted:
            return ""
        return (
            f"is for a weight of {got[0]} x {got[1]}, but this base's is {wanted[0]} x {wanted[1]}"
        )

    def deltas(self, basis: Basis, place: Place) -> np.ndarray:
        """delta_i = u_i^T (scale * up @ down) v_i: the least squares solution, [r] float64."""
        up = self.up[place.start : place.start + len(basis.U)]
        left = basis.U.double().T @ up.double()
        right = basis.V.double().T @ self.down.double().T
        return self.scale * (left * right).sum(1).numpy()

    def energy(self) -> float:
        """|scale * up @ down|^2 without computing the product."""
        down, up = self.down.double().flatten(1), self.up.double().flatten(1)
        value = self.scale**2 * float(((up.T @ up) * (down @ down.T)).sum())
        return value if math.isfinite(value) else math.inf


@dataclass(frozen=True)
class SpectralShift:
    """SVDiff's change of all singular values of a weight [min(out, in)]: s becomes relu(s + it)."""

    values: Tensor

    def shape_problem(self, place: Place, projection: Projection) -> str:
        """In which way it does not fit a weight, as a clause; empty where it does."""
        wanted = min(projection.out_features, projection.in_features)
        got = self.values.numel()
        return "" if got == wanted else f"has {got} shifts, but this base's weight takes {wanted}"

    def deltas(self, basis: Basis, place: Place) -> np.ndarray:
        """The shifts of the first r values, none below zero, [r] float64."""
        s = basis.s.double()
        return ((s + self.values[: len(s)].double()).clamp_min(0) - s).numpy()

    def energy(self) -> float:
        """The sum of their squares."""
        return float(self.values.double().square().sum())


Edit = LowRank | SpectralShift


def project(
    edits: Mapping[str, Edit],
    known: Mapping[str, list[tuple[Projection, Place]]],
    plan: list[Projection],
    bases: Iterable[Basis],
) -> tuple[list[np.ndarray], float, float]:
    """The deltas [r] of each projection that come nearest to the edits, the energy (squared
    Frobenius norm) of these deltas, and that of all edits.

    known: module -> the projections that it holds, and where.
    """
    by_projection = {
        projection: (edits[module], place)
        for module, held in known.items()
        for projection, place in held
    }
    deltas = []
    for projection, basis in zip(plan, bases, strict=True):
        delta = np.zeros(basis.s.numel())
        if projection in by_projection:
            edit, place = by_projection[projection]
            delta = edit.deltas(basis, place)
            for start, stop, kept in basis.ties():
                delta[start:stop] = delta[start:stop].mean() * kept
        deltas.append(delta)
    kept = float(sum(np.square(d).sum() for d in deltas))
    return deltas, kept, sum(edit.energy() for edit in edits.values())
