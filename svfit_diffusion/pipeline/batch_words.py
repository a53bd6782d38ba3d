"""The learned words of a batch: each prompt hears those of its own concepts (room pool).

Two concepts may be called by the same word in two prompts, and one may be at two strengths; so each
(concept, strength) has rows of its own in the text encoder, or vectors for its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..concept import Trigger
from ..families import Family
from . import trigger
from .word import Word, listen, new_ids

Key = tuple[str, float]  # a concept's name, and its strength

MAX_STARTS = 1_000  # class words whose embeddings are remembered


class BatchWords:
    """The words of an adapter called `name` in a pipeline's text encoders."""

    def __init__(self, pipe: Any, family: Family, name: str) -> None:
        self.pipe, self.family, self.name = pipe, family, name
        self._starts: dict[tuple[str, str], Tensor] = {}

    def put(
        self, batch: Sequence[Mapping[str, float]], calls: Mapping[str, Sequence[Trigger]]
    ) -> None:
        """Let prompt i hear the words of the concepts of batch[i] at their strengths.

        calls: name -> the words of a concept.
        """
        keys = list(dict.fromkeys((name, s) for row in batch for name, s in row.items()))
        models = self.family.holders(self.pipe)
        for part, reader in self.family.word_tokenizers(self.pipe).items():
            encoder = models[part]
            if reader is None:
                continue
            ours = {key: [c for c in calls[key[0]] if part in c.rows] for key in keys}
            if any(ours.values()):
                self._teach(reader, encoder, part, ours, batch)
            else:
                trigger.forget(reader, encoder, self.name)

    def remove(self) -> None:
        """Take all of them off again."""
        self.put([], {})

    def _teach(
        self,
        reader: Any,
        encoder: nn.Module,
        part: str,
        ours: Mapping[Key, list],
        batch: Sequence[Mapping[str, float]],
    ) -> None:
        output = self.family.outputs(self.pipe).get(part)
        held, methods = trigger.hold(reader, encoder, output)
        if self.name in held.svfit_rows:  # else ids would grow with each batch
            held.svfit_rows[self.name].words = ()
        words: dict[Key, tuple[Word, ...]] = {}
        rows, starts = [], []
        for number, (key, calls) in enumerate(ours.items()):
            words[key] = tuple(
                Word(call.word, (0,) * len(call.rows[part]), key[1] * call.strength,
                     call.class_word, f"{self.name}-{number}-{call.word}")
                for call in calls
            )  # fmt: skip
            for call in calls:
                block = torch.from_numpy(call.rows[part]).float()
                rows.append(block)
                starts.append(
                    self._start(reader, encoder, part, call.class_word).expand_as(block)
                    if output is None
                    else torch.zeros_like(block)
                )
        words = _numbered(words, reader, encoder)
        texts = tuple(
            tuple(word for key in row.items() for word in words.get(key, ())) for row in batch
        )
        both = trigger.placed(encoder, torch.cat(rows), torch.cat(starts))
        every = tuple(word for found in words.values() for word in found)
        held.update_layer(self.name, every, *both, False, texts)
        listen(reader, held, methods)

    def _start(self, reader: Any, encoder: nn.Module, part: str, noun: str) -> Tensor:
        """The embedding [width] that a class word's rows start at."""
        if (part, noun) not in self._starts:
            if len(self._starts) >= MAX_STARTS:
                self._starts.clear()
            self._starts[part, noun] = trigger.start_row(reader, encoder, noun)
        return self._starts[part, noun]


def _numbered(
    words: Mapping[Key, tuple[Word, ...]], reader: Any, encoder: nn.Module
) -> dict[Key, tuple[Word, ...]]:
    """The words with ids that no other token has."""
    names = [name for found in words.values() for word in found for name in word.names]
    ids = iter(new_ids(reader, encoder, names))
    return {
        key: tuple(
            Word(w.word, tuple(next(ids) for _ in w.ids), w.share, w.class_word, w.label)
            for w in found
        )
        for key, found in words.items()
    }
