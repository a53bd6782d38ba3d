"""A concept in memory, in about as many bytes as its file has; what many have alike is shared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..concept import Concept, Trigger, blocks, pack, unpack
from ..pipeline import Plan


class Origin(NamedTuple):
    """A file that a concept was read from, and its state then: time of change (ns) and bytes."""

    path: Path
    changed: int
    size: int

    @classmethod
    def of(cls, path: Path) -> Origin:
        """The file as it is now; OSError where there is none."""
        status = path.stat()
        return cls(path, status.st_mtime_ns, status.st_size)


class Stored(NamedTuple):
    """Deltas and the common vector: levels and scales of each, or one array; made by `compact`."""

    deltas: tuple[np.ndarray, ...]
    common: tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True)
class Resident:
    """A concept: its plan, its words, its values as `compact` made them, and its file, if any."""

    plan: Plan
    triggers: tuple[Trigger, ...]
    stored: Stored
    origin: Origin | None = None

    def deltas(self) -> np.ndarray:
        """Its deltas [values], float32, to the bit those of the file."""
        return _values(self.stored.deltas, self.plan.ranks)

    def common(self) -> np.ndarray:
        """Its common vector [size], float32; empty where it has none."""
        return _values(self.stored.common, blocks(1, self.plan.common))


def compact(concept: Concept) -> Stored:
    """A concept's values as its file has them: levels of four bits and scales, or as they are."""
    size = concept.common_size
    if not concept.packed:
        return Stored((concept.deltas,), (concept.common,) if size else (np.zeros(0),))
    common = pack(concept.common, blocks(1, size)) if size else (np.zeros(0),)
    return Stored(pack(concept.deltas, concept.ranks), common)


def _values(stored: tuple[np.ndarray, ...], sizes: tuple[int, ...]) -> np.ndarray:
    if len(stored) == 1:
        return stored[0].astype(np.float32)
    return unpack(*stored, sizes)
