"""The self-check of a concept file: eight numbers that identify the basis of its deltas.

    c_k = sum over projections of a_k^T U (V diag(delta) + M)^T b_k        k = 0 .. 7

a_k [out] and b_k [in] are pseudo-random vectors of +1 and -1, seeded by the projection's name. The
expected value of c_k^2 is the edit's squared norm, |delta|^2 without a common vector, and that of
(c_k - c'_k)^2 the squared difference of two edits. Signs and rotations of the basis that do not
change the edit do not change c; another basis does. c is linear in the deltas and in the common
vector, so concepts of one base can be combined without the base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from .common import COMMON_SCALE, place_numbers, places_of

PROBES = 8
# Relative to the edit. Other LAPACK drivers and float32 stay below 1e-6.
SELF_CHECK_TOLERANCE = 1e-4
COARSE_TOLERANCE = 0.05  # the same, where the weights have no file, and may be rounded


def signs(name: str, side: str, length: int) -> np.ndarray:
    """The vectors [8, length] of +1 and -1 of a projection: the bits of SHAKE-256 of `name|side`,
    most significant first, 1 for +1. side: "U" or "V".
    """
    data = hashlib.shake_256(f"{name}|{side}".encode()).digest(PROBES * length // 8)
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    return 2.0 * bits.reshape(PROBES, length) - 1.0


def self_check_rows(name: str, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """The contribution of each delta of a projection to the eight numbers: [8, r], float64."""
    left = signs(name, "U", len(U)) @ U.astype(np.float64)
    return left * (signs(name, "V", len(V)) @ V.astype(np.float64))


def self_check_common(
    name: str,
    place_name: str,
    size: int,
    U: np.ndarray,
    in_features: int,
    ties: Iterable[tuple[int, int, bool]] = (),
) -> np.ndarray:
    """The contribution of each number of a common vector, by a projection: [8, size], float64.

    place_name: of the projection in its model. ties: first and last + 1 of the directions that have
    a column of zeros.
    """
    left = signs(name, "U", len(U)) @ U.astype(np.float64)
    for start, stop, _ in ties:
        left[:, start:stop] = 0
    rows, columns = places_of(*place_numbers(place_name, in_features, U), size)
    places = (rows[:, None] ^ columns).ravel()
    right = signs(name, "V", in_features)
    found = np.stack(
        [
            np.bincount(places, np.outer(b, a).ravel(), 2 * size)
            for a, b in zip(left, right, strict=True)
        ]
    )
    return COMMON_SCALE * (found[:, :size] - found[:, size:])


def self_check_deviation(found: Sequence[float], stated: Sequence[float], norm: float) -> float:
    """The difference of two edits of this norm, relative to it, estimated by their checks."""
    distance = np.sqrt(np.mean(np.square(np.subtract(found, stated))))
    return float(distance / norm) if norm else float("inf" if distance else 0)
