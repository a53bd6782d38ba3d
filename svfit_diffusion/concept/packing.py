"""Numbers in four bits: a level from -7 to 7 for each, and a scale for each projection's deltas,
or for each block of a word's vector.

    delta = scale * level        level: integer, 7 or -7 for the largest; scale: float16

Deltas are small corrections in hundreds of directions, so rounding errors average out. A concept
holds four times as many of them in the same number of bytes as with float16.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np

LEVELS = 7
MAX_PACKED = 4_000_000  # numbers in four bits
BLOCK = 64  # numbers of a word's vector that share a scale
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


def blocks(rows: int, width: int) -> tuple[int, ...]:
    """The sizes of the parts of vectors [rows, width] that have a scale of their own each."""
    full, rest = divmod(width, BLOCK)
    return (*(BLOCK,) * full, *(rest,) * bool(rest)) * rows


def round_vector(vector: np.ndarray) -> np.ndarray:
    """A word's vector [width] rounded to what four bits can represent, block by block, float32."""
    parts = np.split(vector, np.cumsum(blocks(1, len(vector)))[:-1])
    return np.concatenate([round_to_four_bits(part) for part in parts])


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


def unpack_vectors(
    data: np.ndarray,
    scales: np.ndarray,
    rows: np.ndarray,
    shapes: Iterable[tuple[str, tuple[int, int]]],
    outputs: Container[str],
) -> np.ndarray | None:
    """All that words have learned [n], float32, of vectors in four bits and the rows of embeddings;
    None where these do not fit the shapes.

    shapes: text encoder, (tokens, width) of each in the file's order. outputs: those with vectors.
    """
    sizes = [(part in outputs, *shape) for part, shape in shapes]
    counts = [sum(n * width for kind, n, width in sizes if kind == one) for one in (False, True)]
    if counts[1] > MAX_PACKED or counts[0] != rows.size or not (scales >= 0).all():
        return None
    parts = tuple(size for kind, *shape in sizes if kind for size in blocks(*shape))
    vectors = unpack(data, scales, parts)
    if vectors is None:
        return None
    left, found = {False: rows, True: vectors}, []
    for kind, n, width in sizes:
        found.append(left[kind][: n * width])
        left[kind] = left[kind][n * width :]
    return np.concatenate(found).astype(np.float32)


def _tops(values: np.ndarray, ranks: tuple[int, ...]) -> np.ndarray:
    """The largest magnitude [projections] of each projection's values [n]."""
    return np.maximum.reduceat(np.abs(values), np.cumsum([0, *ranks[:-1]]))
