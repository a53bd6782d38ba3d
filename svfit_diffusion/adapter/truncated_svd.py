"""The top singular triples of a matrix [out, in], by the cheapest way that turns out accurate.

    W v = s u and W^T u = s v        u: [out, r]   s: [r], descending   v: [in, r]

1. Block Krylov (Musco and Musco, arXiv 1504.05477): the best triples within the span of a random
   block and its images under W W^T, first in float32, then from there in float64. The block is
   wider than r, so that no wanted triple can hide from it, however many values are equal. The
   steps needed follow from how fast the values fall; where that is too slow, next:
2. the eigenvectors of the smaller Gram matrix, which holds the square of a value and so loses tiny
   ones;
3. LAPACK's SVD of all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import scipy.linalg

TOLERANCE = 1e-9  # of the residual of each singular triple, relative to its singular value
FLOOR = 1e-6  # singular values below this share of the largest are checked against this share
GRAM_SHARE = 0.25  # up to this share of the spectrum, the Gram matrix's top pairs alone are cheaper
PRICE = 30  # of a block Krylov step, measured: its share of the Gram matrix's work, times its rate
STEEP = 1.2  # e-folds a step: a rate that few weights exceed

Triples = tuple[np.ndarray, np.ndarray, np.ndarray]


def truncated_svd(matrix: np.ndarray, r: int) -> Triples:
    """u [out, r], s [r] and v [in, r] of a finite float64 matrix, accurate to TOLERANCE.

    The same matrix gives the same bits. ValueError if no way is accurate.
    """
    for triples in _candidates(matrix, r):
        if _accurate(matrix, *triples):
            return triples
    raise ValueError(
        f"the singular basis of a {matrix.shape} weight is not accurate to {TOLERANCE}; "
        "please report the base model and the version of scipy."
    )


def gram(matrix: np.ndarray) -> np.ndarray:
    """W^T W or W W^T, whichever is smaller."""
    out_features, in_features = matrix.shape
    return matrix.T @ matrix if in_features <= out_features else matrix @ matrix.T


def _candidates(matrix: np.ndarray, r: int) -> Iterator[Triples]:
    yield from _by_krylov(matrix, r)
    if r < min(matrix.shape):  # the least value of all is often too small for it
        yield from _by_gram(matrix, r)
    u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, check_finite=False)
    yield u[:, :r], s[:r], vt[:r].T


def _by_krylov(matrix: np.ndarray, r: int) -> Iterator[Triples]:
    """At most two tries, the second from where the first ended; none where 2. is cheaper."""
    block = 8 * math.ceil(max(1.4 * r, 16) / 8)
    least = PRICE * block * max(matrix.shape) / min(matrix.shape) ** 2  # e-folds a step that pay
    if least > STEEP:
        return
    size = np.linalg.norm(matrix) or 1.0
    coarse = (matrix / size).astype(np.float32)  # its squares neither overflow nor vanish
    start = np.random.default_rng(0).standard_normal((block, matrix.shape[1]), dtype=np.float32)
    _, s, start = _sweep(coarse, start, 3)
    if s[r - 1] <= FLOOR * s[0]:
        return
    # Chebyshev: a step makes the error of the last wanted value smaller by about exp(rate)
    rate = math.acosh(2 * (s[r - 1] / max(s[-1], FLOOR * s[0])) ** 2 - 1)
    if rate < least:
        return
    start = _sweep(coarse, start, math.ceil(7 / rate))[-1].astype(np.float64)
    for _ in range(2):
        u, s, start = _sweep(matrix, start, math.ceil(6 / rate))
        if s[r - 1] <= FLOOR * s[0]:
            return
        yield u[:r].T, s[:r], (start[:r] / s[:r, None]).T


def _sweep(matrix: np.ndarray, start: np.ndarray, steps: int) -> Triples:
    """The best u [block, out], s [block] and s v [block, in] in the Krylov space of `start`.

    Rayleigh-Ritz over `steps` blocks of left vectors, the first being the image of `start`
    [block, in].
    """
    block, out = len(start), matrix.shape[0]
    q = np.empty((steps * block, out), matrix.dtype)  # orthonormal rows
    z = np.empty((steps * block, matrix.shape[1]), matrix.dtype)  # q W
    for i in range(0, len(q), block):
        new = start @ matrix.T
        for _ in range(2):  # once leaves rounding errors behind
            new -= (new @ q[:i].T) @ q[:i]
        new = scipy.linalg.qr(new.T, mode="economic", overwrite_a=True, check_finite=False)[0]
        q[i : i + block] = new.T
        start = np.matmul(q[i : i + block], matrix, out=z[i : i + block])
    values, vectors = np.linalg.eigh(z @ z.T)
    best = vectors[:, : -block - 1 : -1].T
    return best @ q, np.sqrt(values[: -block - 1 : -1].clip(min=0)), best @ z


def _by_gram(matrix: np.ndarray, r: int) -> Iterator[Triples]:
    """Once, unless a value vanishes."""
    n = min(matrix.shape)
    few = {"driver": "evr", "subset_by_index": [n - r, n - 1]}
    way = few if r <= GRAM_SHARE * n else {"driver": "evd"}
    values, vectors = scipy.linalg.eigh(gram(matrix), check_finite=False, **way)
    values, vectors = values[-r:], vectors[:, -r:]
    s = np.sqrt(values[::-1].clip(min=0))
    if s[-1] <= FLOOR * s[0]:
        return
    vectors = vectors[:, ::-1]
    if matrix.shape[1] == n:
        yield (matrix @ vectors) / s, s, vectors
    else:
        yield vectors, s, (matrix.T @ vectors) / s


def _accurate(matrix: np.ndarray, u: np.ndarray, s: np.ndarray, v: np.ndarray) -> bool:
    allowed = TOLERANCE * np.maximum(s, FLOOR * s[0])
    right = np.linalg.norm(matrix @ v - u * s, axis=0)
    left = np.linalg.norm(matrix.T @ u - v * s, axis=0)
    return bool((right <= allowed).all() and (left <= allowed).all())
