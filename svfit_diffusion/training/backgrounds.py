"""Where a photo was taken, as the base itself sees it: the end of a caption that nobody wrote.

What a caption leaves unsaid is learned as if it were the subject's: grass comes along wherever a
dog that was only seen on grass is asked for. So each phrase is tried at the end of the caption, and
the one with which the base predicts a photo's noise best is kept, where it is clear (a diffusion
classifier, arXiv 2303.16203); where none is, gradients of the colours that a photo has at its top
and bottom are tried. The captions that are tried call the subject "a thing": a class word that
stands for another look would hide the background.

What is behind a subject shows where there is much noise, and its details are gone. So each phrase
is tried once there, and only the best are compared at less noise, which takes 30 to 50 predictions
a photo; all photos together take at most SHARE of the training's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from accelerate.utils import broadcast_object_list
from PIL import ImageColor
from torch import Tensor, nn
from tqdm import tqdm

from ..settings import AUTO
from .fixed_noise import samples
from .objective import Objective
from .subject import Subject

log = logging.getLogger(__name__)

COLOURS = (
    *("white", "black", "gray", "brown", "beige", "red", "blue", "green", "yellow", "pink"),
    *("purple", "orange", "teal"),
)
PLACES = (
    *("on the grass", "on the beach", "in the snow", "in a forest", "in a garden", "on a street"),
    *("at night", "at sunset", "in a room", "on a wooden table", "on a wooden floor"),
    *("on a carpet", "on a bed", "on a sofa", "in front of a wall", "in a hand"),
)
GRADIENT, NEAREST = "on a {} to {} gradient", 3  # of each edge's colour, the nearest names
ANYTHING = "a thing"
BACKGROUND = "on a {} background"
PHRASES = (*(BACKGROUND.format(colour) for colour in COLOURS), *PLACES)
MAX_PHOTOS = 20  # photos whose background is recognised; more are seldom without captions
COARSE = 0.81, 0.87  # of the training's noise, from none to most, where each phrase is tried once
FINALISTS = 2  # and the phrase of the colours nearest to those at the edges
SAMPLES = 4  # of each finalist in the noisier half, and where that leaves a doubt in the other half
MIN_GAIN = 0.01  # share of the error that a phrase must save, and twice what the next one saves
AT_EDGES = 0.25  # of that, for the colour at the photo's edges: a base draws white without a word
FAR = 2.0  # times as much, in the noisier half: clear without the other one
SHARE, STEP = 0.2, 3  # of a training's predictions, of which a step takes three for each picture

OnPhoto = Callable[[int, int], None]  # with the number of the photo looked at, and of how many


def candidate_captions(subject: Subject) -> list[str]:
    """All captions that will be tried, and those that a photo may be given."""
    return [
        _with_phrase(caption, phrase)
        for photo in _unnamed_photos(subject)
        for caption in (subject.examples.captions[photo], _neutral(subject, photo))
        for phrases in (("",), *_phrase_sets(subject, photo))
        for phrase in phrases
    ]


def name_backgrounds(
    objective: Objective,
    model: nn.Module,
    known: Sequence[str],
    progress: bool,
    on_photo: OnPhoto | None = None,
) -> None:
    """Complete the captions that nobody wrote, by phrases that are known or recognised now."""
    phrases = known or recognise_backgrounds(objective, model, progress, on_photo)
    complete_captions(objective.subject, phrases)


def recognise_backgrounds(
    objective: Objective, model: nn.Module, progress: bool, on_photo: OnPhoto | None = None
) -> list[str]:
    """A phrase for what is behind the subject on each unnamed photo, "" where none is clear.

    model: as the objective's, with nothing learned yet. on_photo: called before each photo.
    """
    photos, found = _unnamed_photos(objective.subject), []
    search = Search(objective, model)
    main = objective.accelerator.is_main_process
    if photos and main:
        log.info("backgrounds: %s", search.duration(photos))
    for number, photo in enumerate(tqdm(photos, desc="backgrounds", disable=not progress), 1):
        if on_photo:
            on_photo(number, len(photos))
        found.append(search.best_phrase(photo))
    broadcast_object_list(found)
    if main:
        log.info("backgrounds: %s.", ", ".join(phrase or "not named" for phrase in found))
    return found


def complete_captions(subject: Subject, phrases: Sequence[str]) -> None:
    """Append a phrase to the caption of each unnamed photo; "" appends nothing."""
    captions = list(subject.examples.captions)
    for photo, phrase in zip(_unnamed_photos(subject), phrases, strict=True):
        captions[photo] = _with_phrase(captions[photo], phrase)
    subject.examples = replace(subject.examples, captions=tuple(captions))
    subject.backgrounds = tuple(phrases)


def _with_phrase(caption: str, phrase: str) -> str:
    """A caption with a phrase at its end, or as it is."""
    return f"{caption} {phrase}".strip()


def _unnamed_photos(subject: Subject) -> list[int]:
    """The photos whose backgrounds are recognised."""
    return list(subject.unnamed)[:MAX_PHOTOS]


def _neutral(subject: Subject, photo: int) -> str:
    """A photo's caption, with the trigger and the class word replaced by "a thing"."""
    caption = subject.examples.captions[photo]
    token, noun = subject.token, subject.class_word
    return caption.replace(f"{token} {noun}", ANYTHING).replace(f"{noun} {token}", ANYTHING)


def _phrase_sets(subject: Subject, photo: int) -> tuple[tuple[str, ...], ...]:
    """Phrases for a photo; each set is tried only if no phrase of the one before is clear.

    Of the colours, those at its edges, the nearest first; gradients only where top and bottom
    differ.
    """
    top, bottom = (_nearest(colour) for colour in subject.unnamed[photo])
    colours = tuple(BACKGROUND.format(colour) for colour in dict.fromkeys([*top, *bottom]))
    pairs = ((a, b) for a in top for b in bottom if a != b and top[0] != bottom[0])
    gradients = tuple(GRADIENT.format(a, b) for a, b in pairs)
    return ((*colours, *PLACES), *([gradients] if gradients else []))


def _nearest(colour: np.ndarray) -> list[str]:
    """The names of the colours nearest to one [3], 0..255."""
    far = {name: np.linalg.norm(colour - ImageColor.getrgb(name)) for name in COLOURS}
    return sorted(far, key=far.get)[:NEAREST]


class Search:
    """Finds phrases for photos, within a number of predictions. left: how many there may still be;
    each is of one picture.
    """

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        self.objective, self.model = objective, model
        config = objective.config
        steps = config.max_train_steps
        steps = type(config).max_train_steps if steps == AUTO else steps
        pictures = config.train_batch_size * (config.gradient_accumulation_steps or 1)
        self.left = int(SHARE * STEP * steps * pictures)

    def duration(self, photos: Sequence[int]) -> str:
        """A sentence on how long the photos will take, by the time of one prediction."""
        subject, began = self.objective.subject, time.monotonic()
        self._errors(photos[0], "", 1, COARSE)
        seconds = time.monotonic() - began
        sets = (phrases for photo in photos for phrases in _phrase_sets(subject, photo))
        most = min(self.left, sum(map(_most, sets)))
        return f"at most {most:,} predictions, about {most * seconds:.0f} s."

    def best_phrase(self, photo: int) -> str:
        """The phrase with which the base predicts a photo's noise best, "" where none is clear, or
        where too few predictions are left.
        """
        for phrases in _phrase_sets(self.objective.subject, photo):
            if _most(phrases) > self.left:
                return ""
            first = self._gains(photo, phrases, 1, COARSE)
            best = {*sorted(first, key=first.get)[-FINALISTS:], phrases[0]}
            noisier = self._gains(photo, sorted(best), SAMPLES, (0.5, 1.0))
            halves = {text: gain / 2 for text, gain in noisier.items()}
            if winner := _clear(halves, phrases[0], FAR):
                return winner
            if max(noisier.values()) <= MIN_GAIN:
                continue
            other = self._gains(photo, sorted(best), SAMPLES, (0.0, 0.5))
            both = {text: (noisier[text] + other[text]) / 2 for text in best}
            if winner := _clear(both, phrases[0]):
                return winner
        return ""

    def _gains(
        self, photo: int, phrases: Sequence[str], count: int, span: tuple[float, float]
    ) -> dict[str, float]:
        """The share of the error that each phrase saves, a mean of `count` samples."""
        plain = self._errors(photo, "", count, span)
        return {
            text: (1 - self._errors(photo, text, count, span) / plain).mean().item()
            for text in phrases
        }

    def _errors(self, photo: int, phrase: str, count: int, span: tuple[float, float]) -> Tensor:
        """The error [count] of each sample of a photo, with a phrase in its caption."""
        self.left -= count
        caption = _with_phrase(_neutral(self.objective.subject, photo), phrase)
        named = replace(self.objective.subject.examples.only([photo]), captions=(caption,))
        return samples(self.objective, named, count, span).errors(self.model)


def _most(phrases: Sequence[str]) -> int:
    """The most predictions that choosing among phrases takes."""
    return len(phrases) + 1 + 2 * SAMPLES * (FINALISTS + 2)


def _clear(saved: dict[str, float], at_edges: str, times: float = 1.0) -> str:
    """The phrase that saves the most, if that is clear, `times` as much as it must be; else "".

    at_edges: the phrase that the photo's edges speak for.
    """
    *_, second, winner = sorted(saved, key=saved.get)
    least = MIN_GAIN * (AT_EDGES if winner == at_edges else 1)
    return winner if saved[winner] > times * max(least, 2 * saved[second]) else ""
