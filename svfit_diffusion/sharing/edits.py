"""What other programs train, projected onto the singular directions of a weight.

A LoRA (arXiv 2106.09685) changes a weight by scale * up @ down, SVDiff (arXiv 2303.11305) its
singular values by shifts, which are a concept's deltas already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from torch import Tensor

from ..adapter import Basis, Projection, place_index
from ..concept import COMMON_SCALE
from .lora_names import Place

RIDGE = 1e-10  # of the largest diagonal entry


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
        right = basis.V.double().T @ self.down.double().T
        return self.scale * (self._left(basis, place) * right).sum(1).numpy()

    def reads(self, basis: Basis, place: Place) -> np.ndarray:
        """(U^T (scale * up @ down))^T: what its directions read, [in, r] float64."""
        return (self.scale * self._left(basis, place) @ self.down.double()).T.numpy()

    def _left(self, basis: Basis, place: Place) -> Tensor:
        up = self.up[place.start : place.start + len(basis.U)]
        return basis.U.double().T @ up.double()

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

    def reads(self, basis: Basis, place: Place) -> np.ndarray:
        """What its directions read, [in, r] float64."""
        return basis.V.double().numpy() * self.deltas(basis, place)

    def energy(self) -> float:
        """The sum of their squares."""
        return float(self.values.double().square().sum())


Edit = LowRank | SpectralShift


def project(
    edits: Mapping[str, Edit],
    known: Mapping[str, list[tuple[Projection, Place]]],
    plan: list[Projection],
    bases: Iterable[Basis],
    common: CommonFit | None = None,
) -> tuple[list[np.ndarray], float, float]:
    """The deltas [r] of each projection that come nearest to the edits, the energy (squared
    Frobenius norm) of these deltas, and that of all edits.

    known: module -> the projections that it holds, and where. common: is given what it needs to
    find the common vector; the deltas are then those that come nearest beside it.
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
            if common is not None and projection.part == common.part:
                common.add(len(deltas), projection, basis, edit.reads(basis, place))
            for start, stop, kept in basis.ties():
                delta[start:stop] = delta[start:stop].mean() * kept
        deltas.append(delta)
    kept = float(sum(np.square(d).sum() for d in deltas))
    if common is not None:
        kept += common.solve(deltas)
    return deltas, kept, sum(edit.energy() for edit in edits.values())


class CommonFit:
    """The common vector [size] that comes nearest to what a component's directions read, beside the
    best deltas: least squares, by its normal equations without the deltas.

    An entry of a matrix M holds one number, so that those of the vector alone are diagonal.
    """

    def __init__(self, part: str, size: int) -> None:
        self.part, self.size = part, size
        self.found = np.zeros(size)
        self._counts, self._sums = np.zeros(size), np.zeros(size)
        self._rows: list[tuple[int, np.ndarray]] = []  # of a projection: [r, size]

    def add(self, number: int, projection: Projection, basis: Basis, reads: np.ndarray) -> None:
        """Count a projection, by its number in the plan; reads [in, r]."""
        V, one = basis.V.double().numpy(), np.ones((1, basis.s.numel()), bool)
        for start, stop, _ in basis.ties():
            one[:, start:stop] = False
        index = place_index(projection.local, basis, self.size)
        sign = np.where(index < self.size, COMMON_SCALE, -COMMON_SCALE) * one
        index = index % self.size
        flat = index.ravel()
        self._counts += np.bincount(flat, np.square(sign).ravel(), self.size)
        self._sums += np.bincount(flat, (sign * reads).ravel(), self.size)
        columns = zip(index.T, (sign * V).T, strict=True)
        mixed = [np.bincount(places, weights, self.size) for places, weights in columns]
        self._rows.append((number, np.stack(mixed)))

    def solve(self, deltas: list[np.ndarray]) -> float:
        """Find it, take from the deltas what it explains, and return the energy that it adds."""
        if not self._rows:
            return 0.0
        rows = np.concatenate([row for _, row in self._rows])
        alone = np.concatenate([deltas[number] for number, _ in self._rows])
        right = self._sums - rows.T @ alone
        matrix = np.diag(self._counts) - rows.T @ rows
        matrix[np.diag_indices(self.size)] += RIDGE * self._counts.max()  # of numbers not in use
        self.found = scipy.linalg.solve(matrix, right, assume_a="pos", overwrite_a=True)
        for number, row in self._rows:
            deltas[number] -= row @ self.found
        return float(self.found @ right)
