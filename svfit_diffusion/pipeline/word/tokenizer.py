"""A tokenizer that hears learned words, for whoever holds it.

Where a learned word stands in a text, the tokenizer gives the ids of its rows (marks.py). Which
words are in use, and by which text of a batch, is read from the text encoders' rows each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from .embedding import rows_of
from .instance_class import InstanceMixin, mix_in, take_out
from .marks import BatchMarks, Marks, samples_of
from .rows import FIRST_ID, FusedRows, TriggerRows, Word

ROWS = "_svfit_rows"  # attribute of a tokenizer: the rows of the encoders that it reads for


class HearsWords(InstanceMixin):
    """The methods of a tokenizer that has been taught words."""

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        split = kwargs.get("is_split_into_words", False)
        marks = self._marks(text, text_pair, split)
        if marks is None or not marks.needed(text, text_pair):
            return super()._encode_plus(text, text_pair, *args, **kwargs)
        kwargs["split_special_tokens"] = False  # the end-of-text tokens are to be read as such
        found = super()._encode_plus(marks.put(text), marks.put(text_pair), *args, **kwargs)
        marks.write(found, text, text_pair, split)
        return found

    def _marks(self, text: Any, pair: Any, split: bool) -> Marks | None:
        """Where learned words stand in what is to be read; None where no word is in use."""
        texts = texts_of_batch(self)
        read = samples_of(text, pair, split)
        if texts == 1 or len(read) == 1:
            numbers: tuple = (None,)
        elif len(read) % texts == 0:
            numbers = tuple(range(texts))
        else:
            raise ValueError(
                f"the tokenizer was given {len(read)} texts, but concepts were given for {texts}; "
                "pass a list with one prompt, and one negative prompt, for each."
            )
        holder, kept = str(self.eos_token), tuple(self.added_tokens_encoder)
        each = [Marks(heard_words(self, number), holder, kept) for number in numbers]
        if not any(marks.ids for marks in each):
            return None
        return each[0] if len(each) == 1 else BatchMarks(each)

    def tokenize(self, text: str, pair: Any = None, **kwargs: Any) -> list[str]:
        """As the tokenizer's own, with the names of learned tokens."""
        kwargs = {"add_special_tokens": False} | kwargs
        return self.convert_ids_to_tokens(self._encode_plus(text, pair, **kwargs)["input_ids"])

    def _convert_token_to_id_with_added_voc(self, token: str) -> int:
        held = self._names_to_ids()
        return held[token] if token in held else super()._convert_token_to_id_with_added_voc(token)

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """As the tokenizer's own, with the names of learned tokens."""
        if isinstance(ids, int):
            ours = self._ids_to_names().get(ids)
            return ours or super().convert_ids_to_tokens(ids, skip_special_tokens)
        held, found = self._ids_to_names(), []
        for one in map(int, ids):
            ours = [held[one]] if one in held else None
            found += ours or super().convert_ids_to_tokens([one], skip_special_tokens)
        return found

    def _decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> str:
        held = self._ids_to_names()
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        parts, run = [], []
        for one in [*map(int, ids), None]:
            if one is not None and one not in held:
                run.append(one)
                continue
            if run:
                parts.append(super()._decode(run, *args, **kwargs).strip())
                run = []
            if one is not None:
                parts.append(held[one])
        return " ".join(filter(None, parts))

    def _names_to_ids(self) -> dict[str, int]:
        return known_tokens(self)

    def _ids_to_names(self) -> dict[int, str]:
        words = known_words(self.__dict__.get(ROWS, ()))
        return {i: n for word in words for n, i in zip(word.names, word.ids, strict=True)}


def heard_words(tokenizer: Any, text: int | None = None) -> tuple[Word, ...]:
    """The learned words in use, of all text encoders that a tokenizer reads for.

    text: the number of a text of a batch in which each has words of its own.
    """
    held: dict[Word, None] = {}
    for rows in tokenizer.__dict__.get(ROWS, ()):
        rows.base_layer.read_by(tokenizer)
        held.update(dict.fromkeys(rows.heard(text)))
    return tuple(held)


def texts_of_batch(tokenizer: Any) -> int:
    """Of how many texts each hears words of its own; 1 where all hear the same."""
    return max((rows.batch for rows in tokenizer.__dict__.get(ROWS, ())), default=1)


def fused_rows(tokenizer: Any) -> list[FusedRows]:
    """The fused rows of the text encoders that a tokenizer reads for."""
    return [rows.base_layer for rows in tokenizer.__dict__.get(ROWS, ()) if rows.remains]


def known_tokens(tokenizer: Any) -> dict[str, int]:
    """Name -> id of all learned tokens of a tokenizer, also of words that are not in use."""
    words = known_words(getattr(tokenizer, ROWS, ()))
    return {n: i for word in words for n, i in zip(word.names, word.ids, strict=True)}


def known_words(rows: Iterable[TriggerRows]) -> tuple[Word, ...]:
    """The words of text encoders' rows, also those that are not in use."""
    return tuple(dict.fromkeys(word for one in rows for word in one.known()))


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text as the base reads it, whatever words were learned."""
    read = type(tokenizer)._encode_plus
    if isinstance(tokenizer, InstanceMixin):
        read = type(tokenizer).__bases__[1]._encode_plus
    return read(tokenizer, text, add_special_tokens=False)["input_ids"]


def new_ids(tokenizer: Any, encoder: nn.Module, names: Iterable[str]) -> tuple[int, ...]:
    """An id for each token name that neither the tokenizer nor the encoder gives another token."""
    held = [*tokenizer.__dict__.get(ROWS, ()), *filter(None, [rows_of(encoder)])]
    table = {n: i for w in known_words(held) for n, i in zip(w.names, w.ids, strict=True)}
    for name in names:
        table.setdefault(name, max([FIRST_ID - 1, *table.values()]) + 1)
    return tuple(table[name] for name in names)


def listen(tokenizer: Any, rows: TriggerRows, methods: type[InstanceMixin]) -> None:
    """Let a tokenizer hear the words of a text encoder's rows; methods: the class that does so."""
    mix_in(tokenizer, methods)
    held = [one for one in tokenizer.__dict__.get(ROWS, []) if one.remains]
    if not any(one is rows for one in held):
        held.append(rows)
    tokenizer.__dict__[ROWS] = held
    rows.base_layer.read_by(tokenizer)


def stop_listening(tokenizer: Any) -> None:
    """Forget text encoders that hold no words; with the last, the tokenizer is its own again."""
    held = [one for one in tokenizer.__dict__.get(ROWS, []) if one.remains and one.known()]
    tokenizer.__dict__[ROWS] = held
    if not held:
        tokenizer.__dict__.pop(ROWS)
        take_out(tokenizer, InstanceMixin)
