"""The words of a new concept: its class word as a user writes it, and a word to call it by."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection

from ...settings import RARE_WORDS
from .library import Library, slug
from .limits import MAX_WORDS

ARTICLES = re.compile(r"^(?:(?:a|an|the|my|our)(?:\s+|$))+", re.IGNORECASE)
CONSONANTS, VOWELS = "bdfgklmnprtvz", "aeiou"
MAX_STEM = 8  # letters of a name in a proposed word


def class_word(text: str) -> str:
    """What the photos show, as a class word: "My dog." -> "dog". ValueError where it is empty."""
    words = re.sub(r"[^\w\s-]", "", ARTICLES.sub("", " ".join(text.split()))).strip()
    if not words:
        raise ValueError("Say what the photos show, such as: a dog.")
    if len(words) > MAX_WORDS:
        raise ValueError(f"What the photos show may have {MAX_WORDS} characters at most.")
    return words


def unused_word(library: Library, name: str, learned: bool = True) -> str:
    """A word for a concept of this name that no concept of the library is called by.

    learned: whether an embedding is learned for it. Otherwise the base reads it as it is typed, and
    a rare word that is one token serves best.
    """
    taken = library.words()
    rare = (word for word in RARE_WORDS if word.lower() not in taken)
    return (None if learned else next(rare, None)) or propose_word(name, taken, library.salt())


def propose_word(name: str, taken: Collection[str], salt: str) -> str:
    """A word of a name and a syllable, not among those taken: "rex" -> "rexkuv".

    The syllable depends on the salt, so that somebody else's concept of such a name seldom has the
    same word, and then the two can be used together. taken: in lower case.
    """
    stem = re.sub(r"[^a-z]", "", slug(name))[:MAX_STEM]
    words = (stem + _syllable(f"{salt} {stem} {number}") for number in itertools.count())
    return next(word for word in words if word not in taken)


def _syllable(text: str) -> str:
    """A consonant, a vowel and a consonant, by a hash of the text."""
    digest = hashlib.sha256(text.encode()).digest()
    kinds = (CONSONANTS, VOWELS, CONSONANTS)
    return "".join(kind[digit % len(kind)] for kind, digit in zip(kinds, digest, strict=False))
