"""Deltas in four bits: a level from -7 to 7 for each, and a scale for each projection.

    delta = scale * level        level: integer, 7 or -7 for the largest; scale: float16

Deltas are small corrections in hundreds of directions, so rounding errors average out. A concept
holds four times as many of them in the same number of bytes as with float16.
"""

from __future__ import annotations

import numpy as np

LEVELS = 7
CLIPS = np.arange(1, 0.45, -0.05)  # fractions of the largest delta that level 7 may represent


def round_to_four_bits(delta: np.ndarray) -> np.ndarray:
    """The deltas [r] of one projection rounded to what four bits can represent, [r], float32.

    The scale is the one with the least squared error; values that are rounded already stay equal.
    """
    top, options = np.abs(delta).max(initial=0), []
    scales = (CLIPS * top / LEVELS).astype(np.float16).astype(np.float32)
    for scale in scales[scales > 0]:
        levels = (delta / scale).round().clip(-LEVELS, LEVELS)
        if np.abs(levels).max(initial=0) == LEVELS:  # fails where float16 cannot hold the scale
            options.append(scale * levels)
    nothing = np.zeros(len(delta), np.float32)
    return min(options, key=lambda o: float(((o - delta) ** 2).sum()), default=nothing)


def pack(deltas: np.ndarray, ranks: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rounded deltas [n] -> (bytes [ceil(n / 2)], scales [projections], float16).

    Raises ValueError for deltas that four bits do not represent exactly.
    """
    scales = (_tops(deltas.astype(np.float32), ranks) / LEVELS).astype(np.float16)
    levels = (deltas / np.repeat(np.where(scales > 0, scales, 1).astype(np.float32), ranks)).round()
    data = (np.append(levels, [0] * (len(levels) % 2)).astype(np.int8) + 8).astype(np.uint8)
    packed = data[::2] | data[1::2] << 4
    if not np.array_equal(unpack(packed, scales, ranks), deltas):
        raise ValueError("these deltas were not rounded to four bits; write them in float16.")
    return packed, scales


def unpack(data: np.ndarray, scales: np.ndarray, ranks: tuple[int, ...]) -> np.ndarray | None:
    """Bytes and scales -> deltas [n], float32, or None for bytes that `pack` never makes."""
    levels = np.stack([data & 15, data >> 4], 1).reshape(-1).astype(np.int8) - 8
    count = sum(ranks)
    if len(scales) != len(ranks) or levels.size != count + count % 2 or levels[count:].any():
        return None
    if not np.array_equal(_tops(levels[:count], ranks), np.where(scales > 0, LEVELS, 0)):
        return None
    return levels[:count] * np.repeat(scales.astype(np.float32), ranks)


def _tops(values: np.ndarray, ranks: tuple[int, ...]) -> np.ndarray:
    """The largest magnitude [projections] of each projection's values [n]."""
    return np.maximum.reduceat(np.abs(values), np.cumsum([0, *ranks[:-1]]))
