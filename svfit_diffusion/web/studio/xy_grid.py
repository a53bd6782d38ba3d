"""Which pictures a grid has: one value of the horizontal axis for each column, of the vertical for
each row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .cards import Card
from .limits import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, MAX_STRENGTH
from .shared_pipeline import Job

MAX_VALUES, MAX_CELLS = 8, 48
BASE = "base alone"  # a value of the axis concept
ONE = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # strengths of a single concept
SEVERAL = (0.5, 1.0, 1.5)  # strengths of each of several concepts
RANGES = {
    "strength": (float, 0, MAX_STRENGTH),
    "seed": (int, 0, MAX_SEED),
    "steps": (int, 1, MAX_STEPS),
    "guidance": (float, 0, MAX_GUIDANCE),
}
AXES = (*RANGES, "prompt", "concept")
SEPARATOR = {"prompt": "|"}  # between values; of other axes a comma


@dataclass(frozen=True)
class Axis:
    """What varies, one of AXES, and its values. A prompt may have {} for the concept's words."""

    name: str
    values: tuple[Any, ...]

    def caption(self, value: Any) -> str:
        """A value as the grid shows it."""
        if self.name in ("prompt", "concept"):
            return str(value)
        return f"{self.name} {value:g}"


@dataclass(frozen=True)
class Grid:
    """concepts: that all cells use, unless an axis varies them. options: of generation.generate."""

    columns: Axis
    rows: Axis | None
    concepts: Sequence[Card]
    prompt: str
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def cells(self) -> list[tuple[Job, str]]:
        """A job and a caption for each cell, row by row; ValueError for too many."""
        rows = [(self.rows, value) for value in self.rows.values] if self.rows else [(None, None)]
        if len(rows) * len(self.columns.values) > MAX_CELLS:
            raise ValueError(f"A grid may have {MAX_CELLS} pictures at most; give fewer values.")
        return [
            self._cell([(self.columns, column), (axis, row)])
            for axis, row in rows
            for column in self.columns.values
        ]

    def _cell(self, chosen: list[tuple[Axis | None, Any]]) -> tuple[Job, str]:
        given = {axis.name: value for axis, value in chosen if axis}
        cards = list(self.concepts)
        if "concept" in given:
            cards = [card for card in cards if card.name == given["concept"]]
        words = " and ".join(card.trigger for card in cards) or self._class_word()
        strength = given.get("strength", 1.0)
        options = self.options | {k: v for k, v in given.items() if k in ("steps", "guidance")}
        prompt = given.get("prompt", self.prompt).replace("{}", words)
        job = Job(
            [(card, strength) for card in cards], prompt, 1, given.get("seed", self.seed), options
        )
        return job, ", ".join(axis.caption(value) for axis, value in chosen if axis)

    def _class_word(self) -> str:
        """What the first concept is, for the base alone, which knows no other word for it."""
        word = self.concepts[0].concept.all_triggers()[0].class_word if self.concepts else ""
        return f"a {word}" if word else "a thing"


def strengths(cards: Sequence[Card], prompt: str, seed: int, options: dict[str, Any]) -> Grid:
    """One concept over its strengths, or several side by side at three strengths each."""
    if len(cards) == 1:
        return Grid(Axis("strength", ONE), None, cards, prompt, seed, options)
    columns = Axis("concept", tuple(card.name for card in cards))
    return Grid(columns, Axis("strength", SEVERAL), cards, prompt, seed, options)


def parse_axis(name: str, text: str, concepts: Sequence[str] = ()) -> Axis:
    """An axis of values that a user wrote, such as "0, 0.5, 1"; ValueError for unusable ones.

    concepts: names in use, the values of the axis concept, after the base alone.
    """
    if name == "concept":
        return _checked(Axis(name, (BASE, *concepts)))
    parts = [part.strip() for part in text.split(SEPARATOR.get(name, ",")) if part.strip()]
    if name == "prompt":
        return _checked(Axis(name, tuple(parts)))
    kind, low, high = RANGES[name]
    return _checked(Axis(name, tuple(_number(name, part, kind, low, high) for part in parts)))


def _number(name: str, text: str, kind: Callable[[str], float], low: float, high: float) -> float:
    try:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"“{text[:40]}” is no value of {name}: expected numbers from {low} to {high} with "
            "commas between them, such as 1, 2."
        ) from None
    return value


def _checked(axis: Axis) -> Axis:
    if not 1 <= len(axis.values) <= MAX_VALUES:
        raise ValueError(
            f"The axis {axis.name} has {len(axis.values)} values; give 1 to {MAX_VALUES}."
        )
    return axis
