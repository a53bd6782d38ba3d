"""Where learned words stand in texts, and the ids of their rows there.

The word's place is held by the end-of-text token while the text is split, since that token is never
cut or joined; its id is replaced afterwards, by where it stood.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .rows import Word
from .words import find_words


class Marks:
    """Where learned words stand in texts, and what the tokenizer's output says instead of them."""

    def __init__(self, words: Iterable[Word], holder: str, kept: tuple[str, ...]) -> None:
        self.ids = {word.word.lower(): word.ids for word in words}
        self.names = {n: (i,) for w in words for n, i in zip(w.names, w.ids, strict=True)}
        self.holder, self.kept = holder, kept

    def of(self, number: int) -> Marks:
        """The marks of text number `number`."""
        return self

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
        read = samples_of(text, pair, split)
        of = found.get("overflow_to_sample_mapping", range(len(found.encodings)))
        for number, encoding in enumerate(found.encodings):
            ids, sample = row_of(found, "input_ids", number), int(of[number])
            offsets = row_of(found, "offset_mapping", number)
            places: dict = {}
            for at, (start, stop), source in sources(encoding, read[sample], split):
                if source not in places:
                    places[source] = self.of(sample).places(source)
                starts, spans = places[source]
                if start in starts and stop - start == len(self.holder):
                    ids[at] = starts[start]
                if offsets is not None and spans:
                    offsets[at] = type(offsets[at])(_back(spans, start, stop))


class BatchMarks(Marks):
    """The marks of a batch in which each text hears words of its own; as many texts, or a multiple
    of them.
    """

    def __init__(self, each: Sequence[Marks]) -> None:
        self.each, self.holder = each, each[0].holder

    def of(self, number: int) -> Marks:
        """The marks of text number `number`."""
        return self.each[number % len(self.each)]

    def needed(self, *texts: Any) -> bool:
        """Whether a text of the lists holds a word that it hears."""
        numbered = ((i, text) for held in texts for i, text in enumerate(held or ()))
        return any(self.of(i).needed(text) for i, text in numbered)

    def put(self, text: Any) -> Any:
        """The list of texts, each with the end-of-text token in the place of its learned tokens."""
        return text and type(text)(self.of(i).put(one) for i, one in enumerate(text))


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
