"""What a user changed of uploaded photos: which part of one is used, and its caption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from .limits import MAX_PROMPT

WORDS = "{}"  # in a caption: the concept's word and what it is
MAX_ZOOM = 4.0
WHOLE = {"zoom": 1.0, "x": 0.5, "y": 0.5}  # a photo that was not cropped


@dataclass(frozen=True)
class Edit:
    """caption: "" for none, None for the one in the photo's file, or else `guess`.

    zoom: 1 for the largest square, 2 for one of half its side. x, y: 0 to 1, where it lies.
    """

    caption: str | None = None
    guess: str = ""
    zoom: float = 1.0
    x: float = 0.5
    y: float = 0.5

    @property
    def crops(self) -> bool:
        """Whether a part of the photo was chosen."""
        return (self.zoom, self.x, self.y) != tuple(WHOLE.values())

    def cut(self, image: Image.Image) -> Image.Image:
        """The chosen square of a photo, in its own pixels; the whole photo where none was."""
        if not self.crops:
            return image
        side = max(1, round(min(image.size) / self.zoom))
        left, top = round(self.x * (image.width - side)), round(self.y * (image.height - side))
        return image.crop((left, top, left + side, top + side))

    def text(self, own: str | None) -> str:
        """The caption; "" where there is none. own: the one in the photo's file."""
        found = (own or self.guess) if self.caption is None else self.caption
        return found.strip()[:MAX_PROMPT]


NO_EDIT = Edit()


def read_edits(found: Mapping | None, guesses: Mapping | None = None) -> dict[str, Edit]:
    """The edits of photos by their paths, as the page holds them; its numbers are clamped.

    guesses: captions of photos that may have none. ValueError for anything else.
    """
    found, guesses = found or {}, guesses or {}
    try:
        return {
            path: _edit(found.get(path, {}), guesses.get(path, "")) for path in {**found, **guesses}
        }
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            "The changes to the photos cannot be read; drop the photos again."
        ) from None


def _edit(given: Mapping, guess: str) -> Edit:
    caption = given.get("caption")
    if not isinstance(caption, str | None) or not isinstance(guess, str):
        raise TypeError
    limits = {"zoom": (1.0, MAX_ZOOM), "x": (0.0, 1.0), "y": (0.0, 1.0)}
    numbers = {key: float(given.get(key, WHOLE[key])) for key in limits}
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError
    held = {key: min(max(numbers[key], low), high) for key, (low, high) in limits.items()}
    return Edit(caption, guess, **held)
