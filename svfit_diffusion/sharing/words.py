"""What can be the word of a concept."""

from __future__ import annotations

from ..concept import Trigger, printable

MAX_WORD = 60  # characters


def check_word(word: str) -> None:
    """ValueError for what is not one short word."""
    blank = any(c.isspace() or not c.isprintable() for c in word)
    if not word or blank or len(word) > MAX_WORD:
        raise ValueError(
            f"{printable(word, MAX_WORD)!r} cannot be a concept's word; it must be one word of at "
            f"most {MAX_WORD} characters, such as zwx."
        )


def check_new_word(call: Trigger, word: str, instead: str) -> None:
    """ValueError for what cannot stand for a concept's word. instead: what to do where that was not
    learned, so that no other one means the same.
    """
    check_word(word)
    if not call.rows:
        raise ValueError(
            f"the word {printable(call.word, MAX_WORD)!r} was not learned: the base reads it as it "
            f"is typed, so no other word can stand for it; {instead}."
        )
