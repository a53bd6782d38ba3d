"""Where a photo was taken, as the base itself sees it: the end of a caption that nobody wrote.

What a caption leaves unsaid is learned as if it were the subject's: grass comes along wherever a
dog that was only seen on grass is asked for. So each phrase is tried at the end of the caption, and
the one with which the base predicts a photo's noise best is kept, where it is clear (a diffusion
classifier, arXiv 2303.16203); where none is, gradients of the colours that a photo has at its top
and bottom are tried. It takes some 150 predictions a photo, and 70 more for the gradients. The
captions that are tried call the subject "a thing": a class word that stands for another look would
hide the background.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from accelerate.utils import broadcast_object_list
from PIL import ImageColor
from torch import Tensor, nn
from tqdm import tqdm

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
PHRASES = (*(f"on a {colour} background" for colour in COLOURS), *PLACES)
FIRST_SAMPLES, FINAL_SAMPLES = 4, 8  # noisy versions of a photo: for each phrase, for the finalists
FINALISTS = 4
MAX_PHOTOS = 20  # photos whose background is recognised; more are seldom without captions
MIN_GAIN = 0.02  # share of the error that a phrase must save, and twice what the next one saves

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
    for number, photo in enumerate(tqdm(photos, desc="backgrounds", disable=not progress), 1):
        if on_photo:
            on_photo(number, len(photos))
        found.append(_best_phrase(objective, model, photo))
    broadcast_object_list(found)
    if objective.accelerator.is_main_process:
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
    """Phrases for a photo; each set is tried only if no phrase of the one before is clear."""
    top, bottom = (_nearest(colour) for colour in subject.unnamed[photo])
    pairs = ((a, b) for a in top for b in bottom if a != b)
    return PHRASES, tuple(GRADIENT.format(a, b) for a, b in pairs)


def _nearest(colour: np.ndarray) -> list[str]:
    """The names of the colours nearest to one [3], 0..255."""
    far = {name: np.linalg.norm(colour - ImageColor.getrgb(name)) for name in COLOURS}
    return sorted(far, key=far.get)[:NEAREST]


def _best_phrase(objective: Objective, model: nn.Module, photo: int) -> str:
    """The phrase with which the base predicts a photo's noise best, "" where none is clear."""
    caption = _neutral(objective.subject, photo)
    examples = objective.subject.examples.only([photo])

    @functools.cache
    def errors(phrase: str, count: int) -> Tensor:
        named = replace(examples, captions=(_with_phrase(caption, phrase),))
        return samples(objective, named, count).errors(model)

    def gains(phrases: Iterable[str], count: int) -> dict[str, float]:
        plain = errors("", count)
        return {text: (1 - errors(text, count) / plain).mean().item() for text in phrases}

    for phrases in _phrase_sets(objective.subject, photo):
        first = gains(phrases, FIRST_SAMPLES)
        best = sorted(first, key=first.get)[-FINALISTS:]
        more = gains(best, FINAL_SAMPLES)
        saved = {
            text: (FIRST_SAMPLES * first[text] + FINAL_SAMPLES * more[text])
            / (FIRST_SAMPLES + FINAL_SAMPLES)
            for text in best
        }
        *_, second, winner = sorted(best, key=saved.get)
        if saved[winner] > max(MIN_GAIN, 2 * saved[second]):
            return winner
    return ""
