"""The common vector of a concept: numbers that all projections of the denoiser share.

    W' = W + U (V diag(delta) + M)^T                       M: [in, r]
    M[i, j] = (c, -c)[a_i xor b_j] / 32                    c: [d], d a power of two

So each projection gets its own arrangement of the same d numbers, with signs, as what its top
outputs read of its input (the idea of Uni-LoRA, arXiv 2506.00799, in the singular basis). The a_i
and b_j, from 0 to 2 d - 1, are pseudo-random, seeded by the projection's name. A singular vector's
sign is arbitrary, so b_j follows it: the edit is the same for both. Directions that are not
determined, those that no delta moves on its own (basis.py of the adapter), have a column of zeros.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np

COMMON_SCALE = 1 / 32  # by which an entry of M is smaller, so that c is as large as deltas are
TURNED = 1 << 16
Numbers = TypeVar("Numbers")


def place_numbers(name: str, in_features: int, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From which the a_i and b_j of a projection are taken for any d: rows [in] and columns [r].

    They are from 0 to 65,535. U [out, r]: the left singular vectors; a column has TURNED added
    where a fixed pseudo-random vector and u_j disagree in sign.
    """
    rows, columns = (
        _numbers(name, what, count).astype(np.int32)
        for what, count in (("rows", in_features), ("columns", U.shape[1]))
    )
    fixed = _numbers(name, "signs", len(U)).astype(np.float64) - 32_767.5
    return rows, columns + TURNED * (fixed @ U.astype(np.float64) < 0).astype(np.int32)


def places_of(rows: Numbers, columns: Numbers, size: int) -> tuple[Numbers, Numbers]:
    """The a_i and b_j for a common vector of this size, of numpy's numbers or torch's."""
    below = 2 * size - 1
    return rows & below, (columns & below) ^ (size * (columns >> 16))


def _numbers(name: str, what: str, count: int) -> np.ndarray:
    """Numbers from 0 to 65,535: the bytes of SHAKE-256 of `name|what`, two each, low byte first.

    name: of the projection in its model, without the `text_model.` of CLIP's encoders.
    """
    text = f"{name.removeprefix('text_model.')}|{what}"
    return np.frombuffer(hashlib.shake_256(text.encode()).digest(2 * count), "<u2")
