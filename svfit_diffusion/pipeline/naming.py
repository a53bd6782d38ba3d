"""Names, strengths and words of concepts: what is allowed, and what is taken."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ..concept import Concept, Trigger, printable

SHOWN = 60  # characters of a file's text in a sentence


def adapter_name(name: str) -> str:
    """A name that peft and PyTorch take: no dots, and no attribute of the modules it goes into."""
    name = re.sub(r"\W+", "_", name)
    return f"{name}_" if hasattr(nn.ParameterDict, name) or name == "training" else name


def check_strength(strength: float) -> float:
    """The strength as a float of Python's; ValueError for what is no finite number."""
    if not isinstance(strength, numbers.Real) or not math.isfinite(strength):
        raise ValueError(
            f"the strength is {strength!r}, but must be a number: 0 is the base, 1 as trained."
        )
    return float(strength)


def trigger_words(concept: Concept, token: str | None = None) -> tuple[Trigger, ...]:
    """The concept's triggers, the only one under the word `token` if that is given."""
    found = concept.all_triggers()
    if token is None:
        return found
    if len(found) > 1:
        raise ValueError(
            f"this concept is called by {printable(concept.trigger)}, so token={token!r} cannot "
            "stand for it; load it under its own words."
        )
    return (replace(found[0], word=token),)


def check_names(held: Mapping[str, Any], name: str, triggers: tuple[Trigger, ...]) -> None:
    """Refuse a name that is taken, or a learned word that two concepts would share."""
    if name in held:
        raise ValueError(
            f"a concept named {name!r} is already loaded; use swap_concept to replace it, or pass "
            "another name."
        )
    for other, entry in held.items():
        if word := trigger_clash(triggers, entry.triggers):
            raise ValueError(
                f"{name!r} and {other!r} are both called by {printable(word, SHOWN)!r}; "
                "load one of them with another word, such as token='zwx'."
            )


def trigger_clash(one: tuple[Trigger, ...], other: tuple[Trigger, ...]) -> str | None:
    """A word that calls both, in any case, and was learned by at least one of them."""
    words = {call.word.lower(): call for call in other if call.word}
    for call in one:
        twin = words.get(call.word.lower())
        if twin and (call.rows or twin.rows):
            return call.word
    return None
