"""What can be the word of a concept."""

from __future__ import annotations

from ..concept import printable

MAX_WORD = 60  # characters


def check_word(word: str) -> None:
    """ValueError for what is not one short word."""
    blank = any(c.isspace() or not c.isprintable() for c in word)
    if not word or blank or len(word) > MAX_WORD:
        raise ValueError(
            f"{printable(word, MAX_WORD)!r} cannot be a concept's word; it must be one word of at "
            f"most {MAX_WORD} characters, such as zwx."
        )
