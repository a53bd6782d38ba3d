"""What a training achieved: the same scenes before and after it, and how like the photos they are.

Measured is the fidelity of evaluation.likeness: 0 as like the photos as the base's own pictures of
such a thing, 1 as like them as they are among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...data import crop
from ...evaluation import likeness, load_extractor
from ...generation import generate, save_png
from ...pipeline import load_concept

SCENES = (
    "a photo of {} on a white background",
    "a photo of {} on the grass",
    "a photo of {} on the beach",
)
FEATURES = "efficientnet-lite0"  # it needs no download
CLEARLY, SOMEWHAT = 0.4, 0.05  # likeness from which a verdict holds
FEW_PHOTOS = 4


@dataclass(frozen=True)
class Scene:
    """The same prompt and seed without the concept, by its class word, and with it."""

    prompt: str
    before: Image.Image
    after: Image.Image


def before_and_after(pipe: Any, concept: Path, words: tuple[str, str], seed: int) -> list[Scene]:
    """Pictures of all scenes. words: the class word, and what calls the concept.

    pipe: the base alone; afterwards the concept is loaded.
    """

    def pictures(word: str) -> list[Image.Image]:
        return [next(generate(pipe, scene.format(word), seed=seed))[0] for scene in SCENES]

    class_word, trigger = words
    before = pictures(class_word)
    load_concept(pipe, concept)
    prompts = [scene.format(trigger) for scene in SCENES]
    return [Scene(*found) for found in zip(prompts, before, pictures(trigger), strict=True)]


def save_scenes(scenes: Sequence[Scene], folder: Path) -> None:
    """Write their pictures, numbered from 0."""
    folder.mkdir(exist_ok=True)
    for number, scene in enumerate(scenes):
        save_png(scene.before, folder / f"{number}-before.png")
        save_png(scene.after, folder / f"{number}-after.png")


def measure(scenes: Sequence[Scene], photos: Sequence[Image.Image]) -> tuple[float, int]:
    """Likeness, and the number of the scene that is most like the photos.

    ValueError where it cannot be measured: of a single photo, or without the extractor.
    """
    see, side = load_extractor(FEATURES), max(scenes[0].after.size)
    real = see.features([crop(photo.convert("RGB"), side) for photo in photos])
    before, after = (
        see.features([getattr(scene, when) for scene in scenes]) for when in ("before", "after")
    )
    found = likeness(after, before, real, real)
    return found.fidelity, int((after @ real.T).mean(1).argmax())


def advice(value: float, photos: int, steps: int, unknown: bool) -> list[str]:
    """What to try where a concept is not clearly like its photos.

    steps: that were trained. unknown: whether the base does not know such photos.
    """
    if in_words(value, unknown) == "clearly":
        return []
    found = []
    if unknown:
        found.append(
            "Toybox cannot draw real photos, so more training will not help: choose another base."
        )
    if photos < FEW_PHOTOS:
        found.append(f"Try more photos: five to ten from several sides, not {photos}.")
    if not unknown:
        found.append(f"Try a longer training than {steps:,} steps.")
    return found


def in_words(value: float, unknown: bool = False) -> str:
    """A likeness as a word: clearly, somewhat or hardly.

    unknown: whether the base does not know such photos. Then what looks a little like them is
    their colours, so it is hardly like them (on Toybox, real photos of a tin robot gave 0.18).
    """
    if unknown:
        return "hardly"
    return "clearly" if value >= CLEARLY else "somewhat" if value >= SOMEWHAT else "hardly"
