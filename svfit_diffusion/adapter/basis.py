"""The canonical basis of a weight: its truncated singular value decomposition in float64.

    W = U diag(s) V^T        W: [out, in]   U: [out, r]   s: [r], descending   V: [in, r]

SVFit (arXiv 2409.05926) freezes U and V and trains a change of s. Singular vectors are unique only
up to a common sign, which leaves every edit `U diag(delta) V^T` unchanged. What is promised is that
edit: within 1e-6, relative, whatever the processor, the threads and the LAPACK driver.
truncated_svd.py finds the vectors, derives that bound and checks it for every weight.

Vectors of (nearly) equal singular values are unique only up to a rotation among them, and another
LAPACK driver finds other ones. Such directions form a group that takes one common delta, for then
the edit is the same whatever the rotation. Where a group cannot be held together (its values are
nearly zero, so that U and V turn independently, or the rank cuts it) it takes the delta 0.

A weight is scaled by a power of two first, which is exact: neither huge nor tiny ones lose digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from .truncated_svd import GAP, gram, runs, truncated_svd

Rank = int | str


@dataclass(frozen=True)
class Basis:
    """The top-r singular triples of one weight: U [out, r], s [r] descending, V [in, r].

    groups: [r], int32. Directions of one number take one common delta; those of number 0 take 0.
    """

    U: Tensor
    s: Tensor
    V: Tensor
    groups: Tensor

    def ties(self) -> tuple[tuple[int, int, bool], ...]:
        """(first, last + 1, kept) of each group whose deltas are not free, in order."""
        numbers = self.groups.tolist()
        starts = [i for i, n in enumerate(numbers) if i == 0 or n != numbers[i - 1]]
        runs = zip(starts, [*starts[1:], len(numbers)], strict=True)
        return tuple((a, b, numbers[a] > 0) for a, b in runs if b - a > 1 or not numbers[a])

    def first(self, rank: int) -> Basis:
        """The basis of the top `rank` triples, at most all: a group that the rank cuts takes 0."""
        if rank >= len(self.s):
            return self
        groups = self.groups[:rank].clone()
        groups[groups == self.groups[rank]] = 0
        U, V = (matrix[:, :rank].contiguous() for matrix in (self.U, self.V))
        return Basis(U, self.s[:rank].clone(), V, groups)


def parse_rank(rank: Rank) -> Rank:
    """Check a rank rule: a whole number >= 1, "full", or "energy=X" with X in (0, 1].

    Digits in a string are turned into the number; anything else raises ValueError.
    """
    text = str(rank).strip().lower()
    if text == "full":
        return text
    if text.isdecimal() and int(text) >= 1 and not isinstance(rank, bool):
        return int(text)
    if text.startswith("energy="):
        try:
            share = float(text.removeprefix("energy="))
        except ValueError:
            share = 0.0
        if 0 < share <= 1:
            return f"energy={share:g}"
    raise ValueError(
        f"rank is {rank!r}, but must be a whole number of at least 1, 'full', or 'energy=X' with X "
        "between 0 and 1, such as energy=0.99."
    )


def resolve_rank(weight: Tensor, rank: Rank) -> int:
    """The number of singular values that `rank` asks for of weight [out, in], at most all of them.

    "energy=X" is the least r whose top r squared singular values hold the share X of their sum.
    """
    rule, most = parse_rank(rank), min(weight.shape)
    if rule == "full":
        return most
    if isinstance(rule, int):
        return min(rule, most)
    energies = scipy.linalg.eigvalsh(gram(_scaled(weight, "a weight")[0]))[::-1].clip(min=0)
    held = np.cumsum(energies)
    wanted = float(rule.removeprefix("energy=")) * held[-1]
    return min(int(np.searchsorted(held, wanted * (1 - 1e-12))) + 1, most)


def factorize(weight: Tensor, rank: Rank, name: str = "a weight") -> Basis:
    """The basis of weight [out, in], as float32 tensors on the CPU; r is at most min(out, in).

    Raises ValueError, which begins with `name`, when the weight is not a finite matrix, its
    singular values exceed float32, or it cannot be factored to the promise.
    """
    name = f"{name} of shape {tuple(weight.shape)}"
    matrix, exponent = _scaled(weight, name)
    del weight  # of the copies that there are, it is one
    r = resolve_rank(torch.from_numpy(matrix), rank)
    most = min(r + 1, *matrix.shape)  # one more, to see whether the rank cuts a group
    try:
        u, s, v = truncated_svd(matrix, most)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    groups = torch.from_numpy(_groups(s, r))
    s = np.ldexp(s, exponent)
    if s[0] > np.finfo(np.float32).max:
        raise ValueError(
            f"{name} has a singular value of {s[0]:.1e}, more than float32 holds; check the base "
            "model's files."
        )
    parts = (np.ascontiguousarray(a[..., :r], dtype=np.float32) for a in (u, s, v))
    return Basis(*(torch.from_numpy(a) for a in parts), groups)


def _groups(s: np.ndarray, r: int) -> np.ndarray:
    """Group numbers [r] of singular values s [r or r + 1], descending; 0 where no delta can be."""
    numbers = runs(s)
    unfit = {n for n, value in zip(numbers, s, strict=True) if value <= GAP * s[0]}
    if len(s) > r and numbers[-1] == numbers[-2]:
        unfit.add(numbers[-1])
    return np.where(np.isin(numbers, list(unfit)), 0, numbers)[:r].astype(np.int32)


def _scaled(weight: Tensor, name: str) -> tuple[np.ndarray, int]:
    """A copy of the weight in float64, times a power of two that brings its largest entry to
    0.5 ... 1, and the exponent that undoes it. ValueError where it is no finite matrix.
    """
    matrix = weight.detach().to("cpu", torch.float64, copy=True).numpy()
    largest = max(matrix.max(), -matrix.min()) if matrix.size else np.nan
    if matrix.ndim != 2 or not np.isfinite(largest):
        raise ValueError(
            f"{name} is no matrix of finite numbers, so it has no singular basis; check the base "
            "model's files."
        )
    exponent = int(np.frexp(largest)[1])
    return np.ldexp(matrix, -exponent, out=matrix), exponent
