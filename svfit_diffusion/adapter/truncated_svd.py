"""The top singular triples of a matrix [out, in], by the cheapest way that turns out accurate.

    W v = s u and W^T u = s v        u: [out, r]   s: [r], descending   v: [in, r]

1. Block Krylov (Musco and Musco, arXiv 1504.05477): the best triples within the span of a random
   block and its images under W W^T, first in float32, then from there in float64. The block is
   wider than r, so that no wanted triple can hide from it, however many values are equal. The
   steps needed follow from how fast the values fall; where that is too slow, next:
2. the eigenvectors of the smaller Gram matrix, which holds the square of a value and so loses tiny
   ones;
3. LAPACK's SVD of all of it.

**What float64 can hold.** The SVD is backward stable: what it finds are the triples of W + F with
|F| <= p eps s_1 and a p that grows slowly with the size (Golub and Van Loan, Matrix Computations,
4th ed., 5.4.1 and 8.6); the products that check it are rounded by up to n eps |W| |v| themselves
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 3.5). So the residual of a triple,

    rho = sqrt(|W v - s u|^2 + |W^T u - s v|^2) <= 1e-9 s + eps (out + in) s_1,

has an absolute part: however small s is, no less can be asked for (at most 0.4 of it was seen).

**From the residual to the edit.** [[0, W], [W^T, 0]] has the eigenvalues +s, -s and, where W is not
square, 0, with the eigenvectors (u, +-v) / sqrt(2). For a group G of triples that take one delta
the sin theta theorem (Davis and Kahan, SIAM J. Numer. Anal. 7, 1970; for singular vectors Wedin,
BIT 12, 1972) says how far U_G V_G^T is off: at most sqrt(2) |rho_G| / gap_G in the Frobenius norm,
gap_G being the distance of the group's values from all others and from 0. Over all groups (Cauchy
and Schwarz) the edit `U diag(delta) V^T`, whose norm is |delta|, is off by at most

    sqrt(2 sum_i (rho_i / gap_i)^2)        relative, and at most 3e-7 is accepted (EDIT).

Rounding U and V to float32 adds 1.2e-7 at most. Two factorisations of one weight, whatever the
processor's kernels, the number of threads or the LAPACK driver, then give one edit within 1e-6.

**What follows for groups.** rho is about 1e-15 s_1, so over a gap of 1e-7 s_1 (GAP) it turns the
vectors by some 1e-8; over much smaller gaps they are arbitrary. Neighbours nearer than that form a
group, within which vectors may turn as they like. Where a value is itself at most 1e-7 s_1, u and v
turn independently and mean nothing: there delta must be 0. Nothing is asked of such triples but the
residual. A delta is tied by whoever writes it, so readers need not find the same groups.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import scipy.linalg

TOLERANCE = 1e-9  # of the residual of each singular triple, relative to its singular value
EPSILON = float(np.finfo(np.float64).eps)
GAP = 1e-7  # neighbouring singular values nearer than this share of the largest are a group
EDIT = 3e-7  # by which an edit may be off at most, relative
FLOOR = 1e-6  # below this share of the largest value, 1. and 2. are not tried
GRAM_SHARE = 0.25  # up to this share of the spectrum, the Gram matrix's top pairs alone are cheaper
PRICE = 30  # of a block Krylov step, measured: its share of the Gram matrix's work, times its rate
STEEP = 1.2  # e-folds a step: a rate that few weights exceed

Triples = tuple[np.ndarray, np.ndarray, np.ndarray]


def truncated_svd(matrix: np.ndarray, r: int) -> Triples:
    """u [out, r], s [r] and v [in, r] of a finite float64 matrix, accurate as said above.

    The same matrix gives the same bits on the same machine, with the same build and threads.
    ValueError if no way is accurate.
    """
    for way in (_by_krylov, _by_gram, _by_svd):
        with contextlib.suppress(np.linalg.LinAlgError):  # LAPACK did not converge
            for triples in way(matrix, r):
                if _accurate(matrix, *triples):
                    return triples
    raise ValueError(
        f"no singular basis keeps its edits within {EDIT:g}: give it a lower rank, or try other "
        "kernels (the environment variable OPENBLAS_CORETYPE=Haswell) or another build of numpy "
        "and scipy."
    )


def gram(matrix: np.ndarray) -> np.ndarray:
    """W^T W or W W^T, whichever is smaller."""
    out_features, in_features = matrix.shape
    return matrix.T @ matrix if in_features <= out_features else matrix @ matrix.T


def krylov_block(r: int) -> int:
    """The width of a Krylov block that finds r triples."""
    return 8 * math.ceil(max(1.4 * r, 16) / 8)


def least_rate(shape: tuple[int, int], r: int) -> float | None:
    """E-folds a step from which block Krylov pays for r triples of a matrix of this shape; None
    where few weights have them.
    """
    rate = PRICE * krylov_block(r) * max(shape) / min(shape) ** 2
    return rate if rate <= STEEP else None


def runs(s: np.ndarray) -> np.ndarray:
    """Group numbers [r] from 1 of values s [r], descending: neighbours within GAP share one."""
    return 1 + np.concatenate([[0], np.cumsum(s[:-1] - s[1:] > GAP * s[0])]).astype(np.int32)


def edit_error(s: np.ndarray, rho: np.ndarray, complete: bool) -> float:
    """How far an edit in triples of these values [r] and residuals [r] is off at most, relative.

    complete: whether the matrix has no further values; else the last group is cut and takes 0.
    """
    numbers = runs(s)
    first = np.flatnonzero(np.diff(numbers, prepend=0))
    last = np.append(first[1:], len(s)) - 1
    between = s[last[:-1]] - s[first[1:]]
    gap = np.minimum(s[last], np.minimum(np.append(np.inf, between), np.append(between, np.inf)))
    moves = s[last] > GAP * s[0]
    moves[-1] &= complete
    return float(math.sqrt(2) * np.linalg.norm(rho / np.where(moves, gap, np.inf)[numbers - 1]))


def _by_krylov(matrix: np.ndarray, r: int) -> Iterator[Triples]:
    """At most two tries, the second from where the first ended; none where 2. is cheaper."""
    block, least = krylov_block(r), least_rate(matrix.shape, r)
    if least is None:
        return
    size = np.linalg.norm(matrix) or 1.0  # by which its squares neither overflow nor vanish
    coarse = np.empty_like(matrix, dtype=np.float32)
    np.divide(matrix, size, out=coarse, casting="same_kind")  # without a quotient in float64
    start = np.random.default_rng(0).standard_normal((block, matrix.shape[1]), dtype=np.float32)
    _, s, start = _sweep(coarse, start, 3)
    if s[r - 1] <= FLOOR * s[0]:
        return
    # Chebyshev: a step makes the error of the last wanted value smaller by about exp(rate)
    rate = math.acosh(2 * (s[r - 1] / max(s[-1], FLOOR * s[0])) ** 2 - 1)
    if rate < least:
        return
    start = _sweep(coarse, start, math.ceil(7 / rate))[-1].astype(np.float64)
    del coarse
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
    """Once, unless a value vanishes; the least of all often does."""
    n = min(matrix.shape)
    if r == n:
        return
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


def _by_svd(matrix: np.ndarray, r: int) -> Iterator[Triples]:
    """By divide and conquer, then by QR steps, which are slower and never fail to converge."""
    for driver in ("gesdd", "gesvd"):
        with contextlib.suppress(np.linalg.LinAlgError):
            u, s, vt = scipy.linalg.svd(
                matrix, full_matrices=False, check_finite=False, lapack_driver=driver
            )
            yield u[:, :r], s[:r], vt[:r].T


def _accurate(matrix: np.ndarray, u: np.ndarray, s: np.ndarray, v: np.ndarray) -> bool:
    """Whether the residuals are what float64 can hold, and keep the edit."""
    right = np.linalg.norm(matrix @ v - u * s, axis=0)
    left = np.linalg.norm(matrix.T @ u - v * s, axis=0)
    rho = np.hypot(right, left)
    allowed = TOLERANCE * s + EPSILON * sum(matrix.shape) * s[0]
    complete = len(s) == min(matrix.shape)
    return bool((rho <= allowed).all()) and edit_error(s, rho, complete) <= EDIT
