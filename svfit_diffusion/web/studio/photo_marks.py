"""What is wrong with a photo that can be used: too small, black or empty, blurred, there twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 256  # px, at which sharpness is judged
EMPTY = 6.0  # standard deviation of brightness, 0 to 255, below which nothing is seen
SHARP = 5.0  # of brightness: what a hundredth of the pixels differ from their neighbours by
TWICE = 4  # of 64 bits in which the hashes of two copies differ at most


class PhotoMarks:
    """Judges photos one after the other. size: px, that the base sees."""

    def __init__(self, size: int) -> None:
        self.size, self._hashes = size, []

    def mark(self, photo: Image.Image) -> str:
        """A word or two on the next photo, "" where nothing is wrong."""
        grey = photo.convert("L")
        self._hashes.append(_hash(grey))
        return _mark(grey, self.size) or _twin(self._hashes)


def _mark(grey: Image.Image, size: int) -> str:
    if min(grey.size) < size // 2:
        return f"tiny, {grey.width} x {grey.height} px"
    if np.asarray(grey, np.float32).std() < EMPTY:
        return "black or empty"
    return "blurred" if min(grey.size) >= SIDE and _sharpness(grey) < SHARP else ""


def _sharpness(grey: Image.Image) -> float:
    """How much the sharpest hundredth of the pixels differs from the mean of its neighbours."""
    shrunk = grey.copy()
    shrunk.thumbnail((SIDE, SIDE))
    p = np.asarray(shrunk, np.float32)
    around = (p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]) / 4
    return float(np.percentile(np.abs(p[1:-1, 1:-1] - around), 99))


def _hash(grey: Image.Image) -> np.ndarray:
    """Whether each pixel of a small picture is brighter than its right neighbour: [64] bits."""
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
    return (small[:, 1:] > small[:, :-1]).ravel()


def _twin(hashes: Sequence[np.ndarray]) -> str:
    """Which of the photos before the last is the same."""
    for number, other in enumerate(hashes[:-1], 1):
        if (other != hashes[-1]).sum() <= TWICE:
            return f"same as photo {number}"
    return ""
