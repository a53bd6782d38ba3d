"""Deltas in four bits: a level from -7 to 7 for each, and a scale for each projection.

    delta = scale * level        level: whole, 7 or -7 for the largest; scale: float16

Deltas are small corrections that add up over hundreds of directions, so that rounding errors
average out. For the same bytes a concept then has four times as many of them.
"""

from __future__ import annotations

import numpy as np

LEVELS = 7
CLIPS = np.arange(1, 0.45, -0.05)  # shares of the largest delta that the top level may stand for


def round_to_four_bits(delta: np.ndarray) -> np.ndarray:
    """The nearest values [r], float32, that four bits can hold of one projection's deltas [r].

    The scale is the one of least squared error; values rounded before come back as they are.
    """
    top, options = np.abs(delta).max(initial=0), []
    scales = (CLIPS * top / LEVELS).astype(np.float16).astype(np.float32)
    for scale in scales[scales > 0]:
        levels = (delta / scale).round().clip(-LEVELS, LEVELS)
        if np.abs(levels).max(initial=0) == LEVELS:  # else it is too small for a float16 scale
            options.append(scale * levels)
    nothing = np.zeros(len(delta), np.float32)
    return min(options, key=lambda o: float(((o - delta) ** 2).sum()), default=nothing)


def pack(deltas: np.ndarray, ranks: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(bytes [ceil(n / 2)], scales [projections], float16) of rounded deltas [n].

    Raises ValueError for deltas that four bits do not hold exactly.
    """
    scales = (_tops(deltas.astype(np.float32), ranks) / LEVELS).astype(np.float16)
    levels = (deltas / np.repeat(np.where(scales > 0, scales, 1).astype(np.float32), ranks)).round()
    data = (np.append(levels, [0] * (len(levels) % 2)).astype(np.int8) + 8).astype(np.uint8)
    packed = data[::2] | data[1::2] << 4
    if not np.array_equal(unpack(packed, scales, ranks), deltas):
        raise ValueError("these deltas were not rounded to four bits; write them in float16.")
    return packed, scales


def unpack(data: np.ndarray, scales: np.ndarray, ranks: tuple[int, ...]) -> np.ndarray | None:
    """Deltas [n], float32, or None where the bytes are none that `pack` makes."""
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
