"""Where a prompt and the concepts in use disagree, in sentences."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...concept import printable
from ...settings import says
from .library import Entry

MAX_NAME = 60  # characters


def disagreements(prompt: str, entries: Sequence[Entry], chosen: Collection[str]) -> list[str]:
    """A sentence for each concept that is called but not in use, or in use but not called.

    entries: that fit the base. chosen: names of those in use.
    """
    found = []
    for entry in entries:
        words = [call.word for call in entry.card.concept.all_triggers() if call.word]
        called = any(says(prompt.lower(), word.lower()) for word in words)
        word, name = printable(words[0] if words else "", MAX_NAME), entry.name
        if called and entry.name not in chosen and not _covered(words, entries, chosen):
            found.append(f"The prompt says “{word}”, but {name} is off: click it above to use it.")
        elif words and not called and entry.name in chosen and prompt.strip():
            found.append(f"{name} is on, but the prompt does not say “{entry.card.trigger}”.")
    return found


def _covered(words: Sequence[str], entries: Sequence[Entry], chosen: Collection[str]) -> bool:
    """Whether a concept that is in use has one of the words too."""
    used = (entry for entry in entries if entry.name in chosen)
    held = {call.word.lower() for entry in used for call in entry.card.concept.all_triggers()}
    return any(word.lower() in held for word in words)
