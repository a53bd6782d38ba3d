"""A concept in memory, in about as many bytes as its file has; what many have alike is shared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..concept import Concept, Trigger, pack, unpack
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


@dataclass(frozen=True, slots=True)
class Resident:
    """A concept: its plan, its words, its deltas as `compact` made them, and its file, if any."""

    plan: Plan
    triggers: tuple[Trigger, ...]
    stored: tuple[np.ndarray, ...]
    origin: Origin | None = None

    def deltas(self) -> np.ndarray:
        """Its deltas [values], float32, to the bit those of the file."""
        if len(self.stored) == 1:
            return self.stored[0].astype(np.float32)
        return unpack(*self.stored, self.plan.ranks)


def compact(concept: Concept) -> tuple[np.ndarray, ...]:
    """A concept's deltas as its file has them: levels of four bits and scales, or as they are."""
    if not concept.packed:
        return (concept.deltas,)
    return pack(concept.deltas, concept.ranks)
