"""A tokenizer that reads learned words as they are typed, and tags the ids of their tokens.

    id of a tagged token = id as typed + SPAN (1 + learned token - FIRST_ID)

The text is split as ever: a word may have several tokens, stand in a chat template, or be cut off
at the end. Which tokens are of a word is known by the characters that each stands for. The text
encoder takes the tags off again (outputs.py). The first token of a word is its first learned one,
and so on; if the base reads the word in more tokens than were learned, the rest is the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .instance_class import InstanceMixin
from .marks import row_of, samples_of, sources
from .rows import FIRST_ID, Word
from .tokenizer import heard_words, texts_of_batch
from .words import find_words

SPAN = 1 << 21  # larger than any vocabulary
AMBIGUOUS = 2 * FIRST_ID  # the token of words of a batch that overlap: whose it is, is not known


def untagged(ids: Any) -> Any:
    """Ids as typed, of ids (numbers or a tensor) that may have tags."""
    return ids % SPAN


def learned_tokens(ids: Tensor) -> Tensor:
    """The learned tokens that tagged ids are of; a number below FIRST_ID for others."""
    return ids // SPAN + (FIRST_ID - 1)


class TagsWords(InstanceMixin):
    """The methods of a tokenizer that tags learned words."""

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        found = super()._encode_plus(text, text_pair, *args, **kwargs)
        if words := heard_words(self):
            texts = texts_of_batch(self)
            each = [heard_words(self, number) for number in range(texts)] if texts > 1 else []
            _tag(found, samples_of(text, text_pair, split := _split(kwargs)), words, each, split)
        return found

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """As the tokenizer's own, whatever is tagged."""
        ids = untagged(ids) if isinstance(ids, int) else [untagged(int(one)) for one in ids]
        return super().convert_ids_to_tokens(ids, skip_special_tokens)

    def _decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return super()._decode([untagged(int(one)) for one in ids], *args, **kwargs)


def _split(options: dict[str, Any]) -> bool:
    return bool(options.get("is_split_into_words", False))


def _tag(
    found: Any,
    samples: list[tuple],
    words: Iterable[Word],
    each: Sequence[Iterable[Word]],
    split: bool,
) -> None:
    """Tag the ids of learned words in a tokenizer's output. each: those of a batch's texts."""
    ids = {word.word.lower(): word.ids for word in words}
    heard = [{word.word.lower() for word in own} for own in each]
    of = found.get("overflow_to_sample_mapping", range(len(found.encodings)))
    for number, encoding in enumerate(found.encodings):
        row, spans, read = row_of(found, "input_ids", number), {}, {}
        for at, (start, stop), source in sources(encoding, samples[int(of[number])], split):
            if source not in spans:
                spans[source] = _spans(source, ids, heard)
            for first, last, tokens in spans[source]:
                if start < last and first < stop:
                    nth = read.get((source, first), 0)
                    read[source, first] = nth + 1
                    token = tokens[min(nth, len(tokens) - 1)]
                    row[at] = untagged(row[at]) + SPAN * (token - FIRST_ID + 1)


def _spans(
    text: str, words: Mapping[str, tuple[int, ...]], heard: Iterable[set[str]]
) -> list[tuple[int, int, tuple[int, ...]]]:
    """(start, end, tokens) of each word in a text; AMBIGUOUS ones where those of a text of the
    batch would be others, were they the only ones.
    """
    found = list(find_words(text, words))
    for own in heard if found else ():
        alone = list(find_words(text, dict.fromkeys(own)))
        if alone != [one for one in found if one[2] in own]:
            return [(start, end, (AMBIGUOUS,)) for start, end, _ in found]
    return [(start, end, words[word]) for start, end, word in found]
