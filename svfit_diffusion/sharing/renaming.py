"""Another word for a concept: two people who both wrote "sks" can use their files together.

A learned word is what its rows say, whatever it is called; so nothing else of the concept changes.
"""

from __future__ import annotations

from dataclasses import replace

from ..concept import Concept, printable
from .combining import trigger_fields
from .words import MAX_WORD, check_new_word, check_word


def rename(concept: Concept, word: str, old: str | None = None) -> Concept:
    """The concept, called by another word. old: which of its words, where it has several.

    Raises ValueError for a word that cannot be one, and where the word was not learned: then the
    base reads it as it is typed, and no other word means the same.
    """
    check_word(word)
    calls = concept.all_triggers()
    known = ", ".join(printable(repr(call.word), MAX_WORD) for call in calls)
    if old is None and len(calls) > 1:
        raise ValueError(f"this concept is called by {known}; say which of them is renamed.")
    found = [call for call in calls if old in (None, call.word)]
    if not found:
        raise ValueError(
            f"this concept is not called by {printable(old, MAX_WORD)!r}, but {known}."
        )
    check_new_word(found[0], word, "train it again with another one")
    others = [call for call in calls if call is not found[0]]
    if word.lower() in {call.word.lower() for call in others}:
        raise ValueError(f"this concept is called by {word!r} already; choose another word.")
    if not others:
        return replace(concept, token=word)
    renamed = sorted((*others, replace(found[0], word=word)), key=lambda call: call.word)
    return replace(concept, **trigger_fields(renamed, concept.outputs))
