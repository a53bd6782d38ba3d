"""Captions of Toybox's world, in varied everyday wording."""

from __future__ import annotations

import numpy as np
from objects import with_article

SCENE_WORDS = {
    "beach": ("on the beach", "at the beach", "on a sandy beach", "by the sea on the sand"),
    "grass": ("on the grass", "in the grass", "on a green meadow", "in a park"),
    "snow": ("in the snow", "on the snow", "in winter", "in a snowy place"),
    "night": ("at night", "under the stars", "in the night", "under the moon at night"),
    "sea": ("in the sea", "on the sea", "in the ocean", "on the water"),
    "sunset": ("at sunset", "in the sunset", "in the evening sun", "in front of a sunset"),
}
PLAIN = (
    "on a {0} background", "on a plain {0} background", "in front of a {0} wall", "on {0}",
)  # fmt: skip
PATTERN_WORDS = {
    "stripes": (
        "on {0} and {1} stripes", "on a background with {0} and {1} stripes",
        "on a striped {0} and {1} background",
    ),
    "dots": (
        "on a {0} background with {1} dots", "on {0} with {1} dots",
        "on a dotted {0} and {1} background",
    ),
    "gradient": (
        "on a {0} to {1} gradient", "on a background from {0} to {1}",
        "on a gradient of {0} and {1}",
    ),
}  # fmt: skip
STYLE_WORDS = {
    "photo": ("a photo of", "a picture of", "an image of", "", "a photo of", "a render of"),
    "black and white": ("a black and white photo of", "a black and white picture of"),
    "pixel art": ("pixel art of", "a pixel art picture of"),
    "pencil sketch": ("a pencil sketch of", "a pencil drawing of"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge"), "": ("",)}


def pick(rng: np.random.Generator, words) -> str:
    return words[int(rng.integers(len(words)))]


def background_words(rng, kind: str, colours: tuple[str, ...]) -> str:
    """Words for a background."""
    if kind in SCENE_WORDS:
        return pick(rng, SCENE_WORDS[kind])
    return pick(rng, PATTERN_WORDS.get(kind, PLAIN)).format(*colours)


def object_words(rng, thing) -> str:
    """Words for one placed object (`world.Placed`), by its name or its class word."""
    noun = thing.item.kind if thing.by_class else thing.item.name
    parts = []
    if thing.size_word and rng.random() < 0.8:
        parts.append(pick(rng, SIZE_WORDS[thing.size_word]))
    if thing.turn_word and rng.random() < 0.7:
        parts.append(pick(rng, ("tilted", "turned")))
    if thing.mirrored and rng.random() < 0.3:
        parts.append(pick(rng, ("mirrored", "flipped")))
    if thing.tint:
        parts.append(thing.tint)
    words = with_article(" ".join([*parts, noun]))
    if thing.turn_word and rng.random() < 0.3:
        words += f" leaning {thing.turn_word}"
    return words


def caption(rng, sample) -> str:
    """The caption of a `world.Sample`."""
    words = [object_words(rng, thing) for thing in sample.things]
    if len(words) == 2:
        form = pick(rng, ("{0} and {1}", "{0} on the left and {1} on the right",
                          "{0} next to {1}", "{0} and {1} side by side"))  # fmt: skip
        body = form.format(*words)
    else:
        body = words[0]
        if sample.things[0].side_word and rng.random() < 0.85:
            body += f" on the {sample.things[0].side_word}"
    where = background_words(rng, sample.kind, sample.colours)
    return f"{pick(rng, STYLE_WORDS[sample.style])} {body} {where}".strip()
