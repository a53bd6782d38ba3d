"""Concept files for the app: read, checked, and described as plain text."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...concept import Concept, printable, read_concept, to_bytes
from ...pipeline import adapter_name

MAX_LABEL = 60  # characters of a text from a file in one place


@dataclass(frozen=True)
class Card:
    """A concept file that was read and checked. digest: SHA-256 (hex) of its content."""

    concept: Concept
    name: str
    size: int
    digest: str

    @property
    def trigger(self) -> str:
        """Its trigger and class word, safe to print; its name where it has none."""
        return printable(self.concept.trigger, MAX_LABEL) or self.name

    @property
    def base(self) -> str:
        """The name of the base it was trained on, as the file has it."""
        return printable(self.concept.base, MAX_LABEL)

    def facts(self) -> dict[str, str]:
        """What the file contains, as text."""
        concept, rows = self.concept, self.concept.trigger_rows
        facts = {
            "trigger": f"{self.trigger} ({'not ' if rows is None else ''}learned)",
            "base": f"{self.base}, family {printable(concept.family, MAX_LABEL)}",
            "size": f"{self.size:,} bytes: {concept.values:,} values",
            "rank": printable(concept.rank, MAX_LABEL),
            "training": ", ".join(f"{k} {v}" for k, v in sorted(concept.training.items())),
            "licence": concept.license or "not stated",
            "created": concept.created or "not stated",
        }
        return {key: printable(value, 4 * MAX_LABEL) for key, value in facts.items() if value}

    def data(self) -> dict[str, Any]:
        """What the file contains, as values that JSON holds."""
        concept = self.concept
        calls = concept.all_triggers()
        return {
            "trigger": self.trigger,
            "words": [printable(call.word, MAX_LABEL) for call in calls],
            "class_words": [printable(call.class_word, MAX_LABEL) for call in calls],
            "learned": concept.learned,
            "base": self.base,
            "family": printable(concept.family, MAX_LABEL),
            "bytes": self.size,
            "values": concept.values,
            "rank": printable(concept.rank, MAX_LABEL),
            "training": {
                printable(key, MAX_LABEL): printable(v, MAX_LABEL) if isinstance(v, str) else v
                for key, v in sorted(concept.training.items())
            },
            "license": printable(concept.license, MAX_LABEL),
            "created": printable(concept.created, MAX_LABEL),
            "sha256": self.digest,
        }


def read_card(path: str | Path) -> Card:
    """Read a concept file; the ValueError has the file's name, not its folder, and the reason."""
    path = Path(path)
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except (ValueError, OSError) as error:
        raise ValueError(printable(str(error).replace(printable(str(path)), path.name))) from None


@functools.lru_cache(maxsize=256)
def _read(path: Path, _changed: int, size: int) -> Card:
    """Cached, until the file changes."""
    concept = read_concept(path)
    return Card(
        concept, adapter_name(path.stem), size, hashlib.sha256(to_bytes(concept)).hexdigest()
    )
