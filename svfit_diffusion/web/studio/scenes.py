"""Scenes for a prompt: those that Toybox was trained on, which other bases know as well.

And some of the objects that Toybox was trained on and is known to draw.
"""

from __future__ import annotations

import re

SCENES = (
    *("on a white background", "on the grass", "on the beach", "in the snow"),
    *("in the sea", "at sunset", "at night"),
)

OBJECTS = (
    *("dog", "cat", "lion", "penguin", "rose", "strawberry", "pizza", "car", "ship", "castle"),
    *("balloon", "umbrella"),
)


def with_scene(prompt: str, scene: str, example: str) -> str:
    """A prompt with this scene in the place of another one, or else at its end.

    example: what is changed where the prompt is empty.
    """
    prompt = " ".join((prompt.strip() or example).split())
    changed, found = re.subn(rf"\b({'|'.join(SCENES)})\b", scene, prompt)
    return changed if found else f"{prompt.rstrip(' .,')} {scene}"
