"""The learned word: a tokenizer that gives the learned rows where the word stands in a prompt.

    row(strength) = class word + strength * (row - class word)

ComfyUI takes tensors in the place of token ids, so nothing is added to a vocabulary. Only the text
encoders that learned an embedding read it so; what others learned is in outputs.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from svfit_diffusion.concept import Concept, Trigger, printable
from svfit_diffusion.pipeline import trigger_clash
from svfit_diffusion.pipeline.word import find_words

from .layout import Part
from .weights import embedding

CALLS = "svfit_calls"  # attribute of a CLIP's tokenizer: the triggers of its concepts


class LearnedWords:
    """In the place of a Hugging Face tokenizer: as it, but for the learned words.

    rows: word, in lower case -> rows [tokens, width]. first: number of tokens before a text's own.
    last: number of tokens after them.
    """

    def __init__(self, plain: Any, rows: Mapping[str, Tensor], first: int, last: int) -> None:
        self.plain, self.rows, self.first, self.last = plain, dict(rows), first, last

    def __getattr__(self, name: str) -> Any:
        if name == "plain":  # not there yet, in a copy that is being made
            raise AttributeError(name)
        return getattr(self.plain, name)

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """`input_ids` of a text: ids, and rows [width] where a learned word stands."""
        kept = getattr(self.plain, "added_tokens_encoder", ())
        found = list(find_words(text, self.rows, kept=kept)) if isinstance(text, str) else []
        if not found:
            return self.plain(text, *args, **kwargs)
        ids, end = [], 0
        for start, stop, word in found:
            ids += [*self.own_ids(text[end:start]), *self.rows[word]]
            end = stop
        frame = self.plain("")["input_ids"]
        ids = [*frame[: self.first], *ids, *self.own_ids(text[end:])]
        return {"input_ids": ids + frame[len(frame) - self.last :]}

    def own_ids(self, text: str) -> list[int]:
        """The ids of a text as the base reads it, without those that every text has."""
        ids = self.plain(text)["input_ids"] if text.strip() else []
        return ids[self.first : len(ids) - self.last]


def check_words(clip: Any, concept: Concept, parts: Mapping[str, Part]) -> None:
    """Refuse rows that the text encoders cannot take, and a word that another concept has."""
    shapes = concept.trigger_shape.items()
    fit = len({tokens for part, (tokens, _) in shapes if part not in concept.outputs}) <= 1
    for name, (_, width) in concept.trigger_shape.items():
        if name in concept.outputs:
            continue
        fit = fit and name in parts and embedding(parts[name]).shape[1] == width
        for call in concept.all_triggers() if fit else ():
            if name in call.rows and not _reader(clip, parts[name]).own_ids(call.class_word):
                fit = False
    if not fit:
        raise ValueError(
            "this concept's learned word is not one for the text encoders of this CLIP; the file "
            "is damaged, or of another base."
        )
    held = getattr(clip.tokenizer, CALLS, ()) if clip is not None else ()
    if word := trigger_clash(concept.all_triggers(), held):
        raise ValueError(
            f"two concepts are both called by {printable(word, 60)!r}, so one of them could not be "
            "named in a prompt; train or combine them under different words."
        )


def teach(clip: Any, calls: Iterable[Trigger], parts: Mapping[str, Part], strength: float) -> None:
    """Give a CLIP a tokenizer that knows the words of a concept, at a strength."""
    calls = tuple(calls)
    tokenizer = copy.copy(clip.tokenizer)
    setattr(tokenizer, CALLS, (*getattr(tokenizer, CALLS, ()), *calls))
    for name, part in parts.items():
        ours = [call for call in calls if name in call.rows]
        if ours:
            reader, table = _reader(clip, part), embedding(part)
            rows = {c.word.lower(): _rows(c, name, reader, table, strength) for c in ours}
            own = copy.copy(getattr(tokenizer, part.encoder))
            own.tokenizer = LearnedWords(
                reader.plain, {**reader.rows, **rows}, reader.first, reader.last
            )
            setattr(tokenizer, part.encoder, own)
    clip.tokenizer = tokenizer


def _reader(clip: Any, part: Part) -> LearnedWords:
    """The tokenizer of a text encoder, with the words that it knows."""
    own = getattr(clip.tokenizer, part.encoder)
    if isinstance(own.tokenizer, LearnedWords):
        return own.tokenizer
    ends = len(own.tokenizer("")["input_ids"]) - own.tokens_start
    return LearnedWords(own.tokenizer, {}, own.tokens_start, ends)


def _rows(call: Trigger, name: str, reader: LearnedWords, table: Tensor, strength: float) -> Tensor:
    """The rows [tokens, width] of a word, float32, moved from the class word's by the strength."""
    rows, share = torch.from_numpy(call.rows[name]).float(), strength * call.strength
    if share == 1:
        return rows
    start = table[reader.own_ids(call.class_word)].float().mean(0)
    return start + share * (rows - start)
