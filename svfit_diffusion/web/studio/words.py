"""The words of a new concept: its class word as a user writes it, and a trigger that is free."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...concept import printable
from ...settings import RARE_WORDS
from .library import Library
from .limits import MAX_WORDS

ARTICLES = re.compile(r"^(?:(?:a|an|the|my|our)(?:\s+|$))+", re.IGNORECASE)


def class_word(text: str) -> str:
    """What the photos show, as a class word: "My dog." -> "dog". ValueError where it is empty."""
    words = re.sub(r"[^\w\s-]", "", ARTICLES.sub("", " ".join(text.split()))).strip()
    if not words:
        raise ValueError("Say what the photos show, such as: a dog.")
    if len(words) > MAX_WORDS:
        raise ValueError(f"What the photos show may have {MAX_WORDS} characters at most.")
    return words


def check_token(token: str) -> None:
    """ValueError for a trigger token that is not one short word."""
    if len(token) > MAX_WORDS or any(c.isspace() or not c.isprintable() for c in token):
        raise ValueError(f"The trigger {printable(token, 60)!r} must be one short word.")


def unused_token(library: Library) -> str:
    """A rare word that no concept of the library uses as its trigger."""
    concepts = [entry.card.concept for entry in library.entries()]
    return propose_token([call.word for concept in concepts for call in concept.all_triggers()])


def propose_token(taken: Sequence[str]) -> str:
    """A rare word that is not among those taken."""
    used = {word.lower() for word in taken}
    for word in RARE_WORDS:
        if word.lower() not in used:
            return word
    number = 2
    while f"{RARE_WORDS[0]}{number}" in used:
        number += 1
    return f"{RARE_WORDS[0]}{number}"
