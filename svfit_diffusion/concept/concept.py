"""A concept: what was learned of a subject, apart from how a file holds it (file.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .untrusted import printable


@dataclass(frozen=True)
class Trigger:
    """A word that calls a subject, with its learned rows: text encoder -> [tokens, width], or {}.

    strength: of the rows when the concept is at strength 1; other than 1 in combined concepts only.
    """

    word: str
    class_word: str
    rows: Mapping[str, np.ndarray]
    strength: float = 1.0

    def __str__(self) -> str:
        return f"{self.word} {self.class_word}".strip()


@dataclass(frozen=True)
class Concept:
    """A subject as learned on one base.

    deltas: [sum of ranks]. packed: they are written in four bits, which represent them exactly, as
    are vectors in outputs; packed_words: the rows of embeddings too.
    ranks: one per projection, ordered by canonical name. targets: component -> "both", "self" or
    "cross" attention. fingerprints: component -> hash (hex, 128 bits) of its projections' published
    weights. trigger_rows: [sum of tokens x width] or None. trigger_shape: text encoder ->
    (tokens, width). training: settings, for people to read. check: the self-check (self_check.py),
    () in files of version 1. triggers: of a combined concept, word -> (class word, tokens,
    strength), with the rows of each encoder in the order of the words; token is the first word.
    outputs: text encoder -> the layers whose hidden states its rows are added to (none: the last),
    for those that are not trained through; the rows of others are embeddings. common: [d], the
    vector that the projections of the denoiser have in common, packed as deltas are.
    """

    deltas: np.ndarray
    ranks: tuple[int, ...]
    rank: str
    layout: str
    base: str
    family: str
    targets: Mapping[str, str]
    fingerprints: Mapping[str, str]
    token: str
    class_word: str
    trigger_rows: np.ndarray | None = None
    trigger_shape: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    training: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    license: str = ""
    created: str = ""
    check: tuple[float, ...] = ()
    triggers: Mapping[str, tuple[str, int, float]] = field(default_factory=dict)
    packed: bool = False
    packed_words: bool = False
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    common: np.ndarray | None = None

    @property
    def denoiser(self) -> str | None:
        """The component that its common vector is of: the one that is no text encoder."""
        return next((part for part in self.targets if not part.startswith("text_encoder")), None)

    @property
    def common_size(self) -> int:
        """The size of its common vector, 0 where it has none."""
        return 0 if self.common is None else len(self.common)

    @property
    def edit_values(self) -> np.ndarray:
        """All that its edit is linear in: deltas and common vector, [n], float64."""
        parts = [self.deltas] if self.common is None else [self.deltas, self.common]
        return np.concatenate(parts).astype(np.float64)

    @property
    def trigger(self) -> str:
        """The words that call the concept, such as "sks dog"; of a combined concept, all words."""
        return ", ".join(str(call) for call in self.all_triggers())

    @property
    def learned(self) -> bool:
        """Whether an embedding was learned for the trigger."""
        return self.trigger_rows is not None

    def all_triggers(self) -> tuple[Trigger, ...]:
        """The triggers, each with its learned rows."""
        single = {self.token: (self.class_word, None, 1.0)}
        found, start, rows = [], 0, self.rows()
        for word, (noun, tokens, strength) in sorted((self.triggers or single).items()):
            stop = None if tokens is None else start + tokens
            held = {encoder: part[start:stop] for encoder, part in rows.items()}
            found.append(Trigger(word, noun, held if tokens != 0 else {}, strength))
            start = stop
        return tuple(found)

    @property
    def values(self) -> int:
        """The number of trained values."""
        rows = 0 if self.trigger_rows is None else self.trigger_rows.size
        return self.deltas.size + self.common_size + rows

    def without_outputs(self, parts: Iterable[str] | None = None) -> Concept:
        """The concept as programs take it that cannot add anything to a text encoder's output.

        parts: the text encoders that are meant; None: all.
        """
        left = {*(self.outputs if parts is None else parts)}
        kept = {part: rows for part, rows in self.rows().items() if part not in left}
        return replace(
            self,
            outputs={part: layers for part, layers in self.outputs.items() if part not in left},
            trigger_shape={part: rows.shape for part, rows in kept.items()},
            trigger_rows=np.concatenate([r.ravel() for r in kept.values()]) if kept else None,
        )

    @property
    def output_words(self) -> str:
        """A sentence on what `without_outputs` lacks, "" if nothing."""
        if not self.outputs:
            return ""
        words = ", ".join(call.word for call in self.all_triggers() if call.rows)
        parts = " and ".join(sorted(self.outputs))
        return printable(
            f"the learned word {words} is, in part or as a whole, added to the output of the "
            f"{parts}, which this form cannot hold: there it is read as it is typed, and the "
            "subject will be less alike than with the concept file."
        )

    def rows(self) -> dict[str, np.ndarray]:
        """Text encoder -> learned rows [tokens, width]."""
        rows, start = {}, 0
        for name, (tokens, width) in sorted(self.trigger_shape.items()):
            part = self.trigger_rows[start : start + tokens * width]
            rows[name], start = part.reshape(tokens, width), start + tokens * width
        return rows
