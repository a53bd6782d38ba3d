"""A request for a picture: its fields, their limits, and the parameters that they make."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...concept import printable
from ...generation import Parameters, parameters
from ...pool import ConceptPool
from ..studio import (
    MAX_ACTIVE_CONCEPTS,
    MAX_GUIDANCE,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    MAX_STRENGTH,
)

WHOLE = {"seed": (0, MAX_SEED), "steps": (1, MAX_STEPS), "width": (8, MAX_SIZE),
         "height": (8, MAX_SIZE)}  # fmt: skip
TEXTS = ("prompt", "negative_prompt", "base")
FIELDS = (*TEXTS, *WHOLE, "guidance", "concepts", "stream")


def read_wish(body: bytes, pool: ConceptPool, base: str) -> tuple[Parameters, bool]:
    """The parameters of the picture that a request's JSON asks for, and whether to stream.

    base: the name of the one that is served. Raises ValueError for anything that is not as it
    should be, a concept that is not there among it; whether one fits is found with its batch.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The request is not JSON.") from None
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise ValueError("The request must be a JSON object.")
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise ValueError(
            f"{printable(unknown[0], 60)!r} is no field; there are {', '.join(FIELDS)}."
        )
    given = {key: value for key, value in fields.items() if value is not None}
    _check_texts(given, base)
    _check_numbers(given)
    concepts = _concepts(given.get("concepts", {}), pool)
    options = {key: given.get(key) for key in ("steps", "guidance", "width", "height")}
    options["negative_prompt"] = given.get("negative_prompt")
    made = parameters(pool.pipe, given["prompt"], given.get("seed", 0), **options)
    made = replace(made, concepts=tuple(concepts.items()))
    return made, given.get("stream", False)


def _check_texts(given: Mapping[str, Any], base: str) -> None:
    for key in TEXTS:
        text = given.get(key, "")
        if not isinstance(text, str) or len(text) > MAX_PROMPT:
            raise ValueError(f"{key} must be a text of at most {MAX_PROMPT:,} characters.")
    if not given.get("prompt", "").strip():
        raise ValueError("prompt is missing: say what to generate.")
    if given.get("base", base) != base:
        raise ValueError(
            f"this server generates with {printable(base, 100)!r}, not with "
            f"{printable(given['base'], 100)!r}; ask the one that serves that base."
        )
    if not isinstance(given.get("stream", False), bool):
        raise ValueError("stream must be true or false.")


def _check_numbers(given: Mapping[str, Any]) -> None:
    for key, (low, high) in WHOLE.items():
        number = given.get(key, low)
        if type(number) is not int or not low <= number <= high:
            raise ValueError(f"{key} must be a whole number from {low} to {high}.")
    guidance = given.get("guidance", 0)
    if not _is_number(guidance) or not 0 <= guidance <= MAX_GUIDANCE:
        raise ValueError(f"guidance must be a number from 0 to {MAX_GUIDANCE}.")


def _concepts(found: Any, pool: ConceptPool) -> dict[str, float]:
    """Concepts of the pool with strengths."""
    if not isinstance(found, dict) or len(found) > MAX_ACTIVE_CONCEPTS:
        raise ValueError(
            f'concepts must be at most {MAX_ACTIVE_CONCEPTS} names with strengths: {{"rex": 0.8}}.'
        )
    for name, strength in found.items():
        if not _is_number(strength) or abs(strength) > MAX_STRENGTH:
            raise ValueError(
                f"the strength of {printable(name, 60)!r} must be a number from -{MAX_STRENGTH} to "
                f"{MAX_STRENGTH}: 0 is the base, 1 as trained."
            )
        pool.triggers(name)
    return {name: float(strength) for name, strength in found.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
