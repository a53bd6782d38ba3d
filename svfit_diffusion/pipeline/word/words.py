"""Finding learned words in a text: whole words, in any case, the longest one, in one pass.

One pass over the text, so that nothing is looked for in what was put there: words may contain one
another, and a text that already holds the tokens' names stays as it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping


def token_names(word: str, count: int) -> tuple[str, ...]:
    """The names of a word's tokens, which may stand in a text in the word's place."""
    return tuple(f"<svfit-{word}-{i}>" for i in range(count))


def find_words(
    text: str, words: Mapping[str, object], names: Iterable[str] = (), kept: Iterable[str] = ()
) -> Iterator[tuple[int, int, str]]:
    """(start, end, word or token name) of each one in a text, from left to right.

    words: in lower case. names: of tokens, as written. kept: texts that stay whole, such as the
    tokenizer's own added tokens.
    """
    names, kept = tuple(names), tuple(one for one in kept if one.lower() not in words)
    for match in _pattern(tuple(words), names, kept).finditer(text):
        found = match.group()
        if found in names:
            yield match.start(), match.end(), found
        elif found not in kept:
            yield match.start(), match.end(), _as_known(found, words)


@functools.lru_cache(64)
def _pattern(words: tuple[str, ...], names: tuple[str, ...], kept: tuple[str, ...]) -> re.Pattern:
    literal = [(text, re.escape(text)) for text in (*names, *kept)]
    whole = [(word, rf"(?<!\w)(?i:{re.escape(word)})(?!\w)") for word in words]
    longest_first = sorted((*literal, *whole), key=lambda pair: len(pair[0]), reverse=True)
    return re.compile("|".join(pattern for _, pattern in longest_first) or r"(?!)")


def _as_known(found: str, words: Iterable[str]) -> str:
    """The word that a piece of text is, in another case."""
    lower = found.lower()
    same = (w for w in words if w == lower or re.fullmatch(re.escape(w), found, re.IGNORECASE))
    return next(same)


def put_names(text: str, tokens: Mapping[str, str]) -> str:
    """The text with each word as its tokens' names, `tokens`: word -> names, separated by spaces.

    Converting a text twice gives the same as once.
    """
    if not tokens:
        return text
    lower = {word.lower(): names for word, names in tokens.items()}
    names = [name for found in tokens.values() for name in found.split()]
    parts, end = [], 0
    for start, stop, found in find_words(text, lower, names):
        parts += [text[end:start], lower.get(found, found)]
        end = stop
    return re.sub(r"\s+", " ", " ".join([*parts, text[end:]])).strip()
