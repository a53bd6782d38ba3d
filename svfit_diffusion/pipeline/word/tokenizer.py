"""A tokenizer that hears learned words, for whoever holds it.

Where a learned word stands in a text, the tokenizer gives the ids of its rows. The word's place is
held by the end-of-text token while the text is split, since that token is never cut or joined; its
id is replaced afterwards, by where it stood. Which words are in use is read from the text
encoders' rows each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from .embedding import rows_of
from .instance_class import InstanceMixin, mix_in, take_out
from .rows import FIRST_ID, FusedRows, TriggerRows, Word
from .words import find_words

ROWS = "_svfit_rows"  # attribute of a tokenizer: the rows of the encoders that it reads for


class HearsWords(InstanceMixin):
    """The methods of a tokenizer that has been taught words."""

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        words = heard_words(self)
        kept = tuple(self.added_tokens_encoder)
        marks = Marks(words, str(self.eos_token), kept) if words else None
        if marks is None or not marks.needed(text, text_pair):
            return super()._encode_plus(text, text_pair, *args, **kwargs)
        kwargs["split_special_tokens"] = False  # the end-of-text tokens are to be read as such
        found = super()._encode_plus(marks.put(text), marks.put(text_pair), *args, **kwargs)
        marks.write(found, text, text_pair, kwargs.get("is_split_into_words", False))
        return found

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
        return {i: name for name, i in self._names_to_ids().items()}


class Marks:
    """Where learned words stand in texts, and what the tokenizer's output says instead of them."""

    def __init__(self, words: Iterable[Word], holder: str, kept: tuple[str, ...]) -> None:
        self.ids = {word.word.lower(): word.ids for word in words}
        self.names = {n: (i,) for w in words for n, i in zip(w.names, w.ids, strict=True)}
        self.holder, self.kept = holder, kept

    def _found(self, text: str) -> list[tuple[int, int, tuple[int, ...]]]:
        found = find_words(text, self.ids, self.names, self.kept)
        return [(a, b, self.names.get(word) or self.ids[word]) for a, b, word in found]

    def needed(self, *texts: Any) -> bool:
        """Whether any word stands in any of the texts."""
        return any(self._found(x) if isinstance(x, str) else self.needed(*(x or ())) for x in texts)

    def put(self, text: Any) -> Any:
        """The texts with the end-of-text token in the place of each learned token."""
        if not isinstance(text, str):
            return text if text is None else type(text)(map(self.put, text))
        parts, end = [], 0
        for start, stop, ids in self._found(text):
            parts += [text[end:start], self.holder * len(ids)]
            end = stop
        return "".join([*parts, text[end:]])

    def places(self, text: str) -> tuple[dict[int, int], list[tuple[int, int, int, int]]]:
        """Of a text with marks: start -> id, and (start, stop) of each mark there and in the text
        as it was.
        """
        starts, spans, shift = {}, [], 0
        for start, stop, ids in self._found(text):
            first = start + shift
            starts |= {first + i * len(self.holder): token for i, token in enumerate(ids)}
            last = first + len(self.holder) * len(ids)
            spans.append((first, last, start, stop))
            shift += (last - first) - (stop - start)
        return starts, spans

    def write(self, found: Any, text: Any, pair: Any, split: bool) -> None:
        """Write the ids of learned tokens into the tokenizer's output, and offsets in the texts as
        they were.
        """
        samples = samples_of(text, pair, split)
        of = found.get("overflow_to_sample_mapping", range(len(found.encodings)))
        for number, encoding in enumerate(found.encodings):
            ids = row_of(found, "input_ids", number)
            offsets = row_of(found, "offset_mapping", number)
            places: dict = {}
            for at, (start, stop), source in sources(encoding, samples[int(of[number])], split):
                if source not in places:
                    places[source] = self.places(source)
                starts, spans = places[source]
                if start in starts and stop - start == len(self.holder):
                    ids[at] = starts[start]
                if offsets is not None and spans:
                    offsets[at] = type(offsets[at])(_back(spans, start, stop))


def _back(spans: list[tuple[int, int, int, int]], start: int, stop: int) -> tuple[int, int]:
    """Offsets in a text with marks -> in the text as it was."""
    shift = 0
    for first, last, was, until in spans:
        if first <= start < last:
            return was, until
        if start >= last:
            shift = until - last
    return start + shift, stop + shift


def sources(encoding: Any, texts: tuple, split: bool) -> Iterator[tuple[int, tuple[int, int], str]]:
    """(place, (start, stop), the text that start and stop are of) of each token that is of a text.

    texts: a text and its pair, in words if `split`.
    """
    for at, span in enumerate(encoding.offsets):
        sequence = encoding.sequence_ids[at]
        if sequence is not None:
            source = texts[sequence]
            yield at, span, source[encoding.word_ids[at]] if split else source


def row_of(found: Any, key: str, number: int) -> Any:
    """A row of the output, whether it is a batch, tensors, or a single list."""
    if key not in found:
        return None
    values = found[key]
    if not len(values):
        return values
    first = values[0]
    nested = getattr(first, "ndim", 0) > 0 or isinstance(first, list)
    nested = nested and not (key == "offset_mapping" and isinstance(first, tuple))
    return values[number] if nested else values


def samples_of(text: Any, pair: Any, split: bool) -> list[tuple]:
    """(text, its pair) of each sample of a call."""
    single = isinstance(text, str) or (split and (not text or isinstance(text[0], str)))
    if single:
        return [(text, pair)]
    if pair is not None:
        return list(zip(text, pair, strict=True))
    pairs = not split and text and not isinstance(text[0], str)
    return [tuple(one) if pairs else (one, None) for one in text]


def heard_words(tokenizer: Any) -> tuple[Word, ...]:
    """The learned words in use, of all text encoders that a tokenizer reads for."""
    held: dict[Word, None] = {}
    for rows in tokenizer.__dict__.get(ROWS, ()):
        rows.base_layer.read_by(tokenizer)
        held.update(dict.fromkeys(rows.heard()))
    return tuple(held)


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
