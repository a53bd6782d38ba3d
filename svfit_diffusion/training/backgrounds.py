"""Where a photo was taken, as the base itself sees it: the end of a caption that nobody wrote.

What a caption leaves unsaid is learned as if it were the subject's: grass comes along wherever a
dog that was only seen on grass is asked for. So each phrase is tried at the end of the caption, and
the one with which the base foretells a photo's noise best is kept, where it is clear (a diffusion
classifier, arXiv 2303.16203); where none is, gradients of the colours that a photo has at its top
and bottom are tried. It takes some 150 predictions a photo, and 70 more for the gradients. There
the subject is but a thing: a class word that calls up another look would hide the background.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from accelerate.utils import broadcast_object_list
from PIL import ImageColor
from torch import Tensor, nn
from tqdm import tqdm

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
SAMPLES, MORE = 4, 8  # noisy versions of a photo that each phrase is tried on, and the best ones
BEST = 4
MOST = 20  # photos that are looked at; more are seldom without captions
LEAST = 0.02  # share of the error that a phrase must save, and twice what the next one saves


def tried(subject: Subject) -> list[str]:
    """All captions that `name_backgrounds` will try, and those that it may give."""
    return [
        _ended(caption, phrase)
        for photo in _looked_at(subject)
        for caption in (subject.examples.captions[photo], _neutral(subject, photo))
        for phrases in (("",), *_sets(subject, photo))
        for phrase in phrases
    ]


def name_backgrounds(objective: Objective, model: nn.Module, progress: bool) -> None:
    """Complete the captions of a subject's unnamed photos by what is behind it.

    model: as the objective's, with nothing learned yet.
    """
    subject, accelerator = objective.subject, objective.accelerator
    quiet = not (progress and accelerator.is_main_process)
    photos = tqdm(_looked_at(subject), desc="looking at backgrounds", disable=quiet)
    found = [_best(objective, model, photo) for photo in photos]
    broadcast_object_list(found)
    complete(subject, found)
    if accelerator.is_main_process:
        log.info("backgrounds: %s.", ", ".join(phrase or "not named" for phrase in found))


def complete(subject: Subject, phrases: Sequence[str]) -> None:
    """End the captions of a subject's unnamed photos by a phrase each, by none where it is ""."""
    held = list(subject.examples.captions)
    for photo, phrase in zip(_looked_at(subject), phrases, strict=True):
        held[photo] = _ended(held[photo], phrase)
    subject.examples = replace(subject.examples, captions=tuple(held))
    subject.backgrounds = tuple(phrases)
    subject.forget(held)


def _ended(caption: str, phrase: str) -> str:
    """A caption with a phrase at its end, or as it is."""
    return f"{caption} {phrase}".strip()


def _looked_at(subject: Subject) -> list[int]:
    """The photos whose backgrounds are looked at."""
    return list(subject.unnamed)[:MOST]


def _neutral(subject: Subject, photo: int) -> str:
    """A photo's caption, whatever the subject is."""
    caption = subject.examples.captions[photo]
    return caption.replace(f"{subject.token} {subject.class_word}", ANYTHING)


def _sets(subject: Subject, photo: int) -> tuple[tuple[str, ...], ...]:
    """Phrases for a photo; each set is for where nothing of the one before is clear."""
    top, bottom = (_nearest(colour) for colour in subject.unnamed[photo])
    pairs = ((a, b) for a in top for b in bottom if a != b)
    return PHRASES, tuple(GRADIENT.format(a, b) for a, b in pairs)


def _nearest(colour: np.ndarray) -> list[str]:
    """The names of the colours nearest to one [3], 0..255."""
    far = {name: np.linalg.norm(colour - ImageColor.getrgb(name)) for name in COLOURS}
    return sorted(far, key=far.get)[:NEAREST]


def _best(objective: Objective, model: nn.Module, photo: int) -> str:
    """The phrase with which the base foretells a photo best, "" where none is clear."""
    caption = _neutral(objective.subject, photo)
    examples = objective.subject.examples.only([photo])

    @functools.cache
    def errors(phrase: str, count: int) -> Tensor:
        named = replace(examples, captions=(_ended(caption, phrase),))
        return objective.errors(model, objective.fixed(named, count))

    def gains(phrases: Iterable[str], count: int) -> dict[str, float]:
        plain = errors("", count)
        return {text: (1 - errors(text, count) / plain).mean().item() for text in phrases}

    for phrases in _sets(objective.subject, photo):
        first = gains(phrases, SAMPLES)
        best = sorted(first, key=first.get)[-BEST:]
        more = gains(best, MORE)
        saved = {
            text: (SAMPLES * first[text] + MORE * more[text]) / (SAMPLES + MORE) for text in best
        }
        *_, second, winner = sorted(best, key=saved.get)
        if saved[winner] > max(LEAST, 2 * saved[second]):
            return winner
    return ""
