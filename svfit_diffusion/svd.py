"""The canonical basis of a weight: its truncated singular value decomposition in float64.

    W = U diag(s) V^T        W: [out, in]   U: [out, r]   s: [r], descending   V: [in, r]

SVFit (arXiv 2409.05926) freezes U and V and trains a change of s. Singular vectors are unique up
to a common sign, which leaves every edit `U diag(delta) V^T` unchanged. Whatever algorithm found
them, each pair is checked: |W v - s u| and |W^T u - s v| are at most 1e-9 s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

TOLERANCE = 1e-9  # of the residual of each singular triple, relative to its singular value
FLOOR = 1e-6  # singular values below this share of the largest are checked against this share
GRAM_SHARE = 0.25  # up to this share of the spectrum, the Gram matrix's top pairs are cheaper

Rank = int | str


@dataclass(frozen=True)
class Basis:
    """The top-r singular triples of one weight: U [out, r], s [r] descending, V [in, r]."""

    U: Tensor
    s: Tensor
    V: Tensor


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
    energies = scipy.linalg.eigvalsh(_gram(_as_float64(weight)))[::-1].clip(min=0)
    held = np.cumsum(energies)
    wanted = float(rule.removeprefix("energy=")) * held[-1]
    return min(int(np.searchsorted(held, wanted * (1 - 1e-12))) + 1, most)


def factor(weight: Tensor, rank: Rank) -> Basis:
    """The basis of weight [out, in], as float32 tensors on the CPU.

    Raises ValueError when the weight is not a finite matrix or cannot be factored accurately.
    """
    if weight.ndim != 2 or not torch.isfinite(weight).all():
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} is no matrix of finite numbers, so it has no "
            "singular basis; check the base model's files."
        )
    matrix, r = _as_float64(weight), resolve_rank(weight, rank)
    triple = _top_by_gram(matrix, r) if r <= GRAM_SHARE * min(matrix.shape) else None
    if triple is None or not _accurate(matrix, *triple):
        triple = _direct(matrix, r)
        if not _accurate(matrix, *triple):
            raise ValueError(
                f"the singular basis of a {matrix.shape} weight is not accurate to {TOLERANCE}; "
                "please report the base model and the version of scipy."
            )
    return Basis(*(torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in triple))


def factor_all(jobs: Iterable[tuple[Tensor, Rank]]) -> list[Basis]:
    """factor() of every (weight, rank), one matrix a thread: threaded LAPACK calls are slower."""
    jobs = list(jobs)
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    with threadpool_limits(limits=1), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda job: factor(*job), jobs))


def _as_float64(weight: Tensor) -> np.ndarray:
    return weight.detach().to("cpu", torch.float64).numpy()


def _gram(matrix: np.ndarray) -> np.ndarray:
    out_features, in_features = matrix.shape
    return matrix.T @ matrix if in_features <= out_features else matrix @ matrix.T


def _top_by_gram(matrix: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Top r triples from the eigenvectors of the smaller Gram matrix; None if one vanishes."""
    n = min(matrix.shape)
    values, vectors = scipy.linalg.eigh(
        _gram(matrix), subset_by_index=[n - r, n - 1], driver="evr", check_finite=False
    )
    s = np.sqrt(values[::-1].clip(min=0))
    if s[-1] <= FLOOR * s[0]:
        return None
    vectors = vectors[:, ::-1]
    if matrix.shape[1] == n:
        return (matrix @ vectors) / s, s, vectors
    return vectors, s, (matrix.T @ vectors) / s


def _direct(matrix: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, check_finite=False)
    return u[:, :r], s[:r], vt[:r].T


def _accurate(matrix: np.ndarray, u: np.ndarray, s: np.ndarray, v: np.ndarray) -> bool:
    allowed = TOLERANCE * np.maximum(s, FLOOR * s[0])
    right = np.linalg.norm(matrix @ v - u * s, axis=0)
    left = np.linalg.norm(matrix.T @ u - v * s, axis=0)
    return bool((right <= allowed).all() and (left <= allowed).all())
