"""Where a photo was taken, as the base itself sees it: the end of a caption that nobody wrote.

What a caption leaves unsaid is learned as if it were the subject's: grass comes along wherever a
dog that was only seen on grass is asked for. So each phrase is tried at the end of the caption, and
the one with which the base foretells a photo's noise best is kept, where it is clear (a diffusion
classifier, arXiv 2303.16203). It takes some 150 predictions a photo.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from accelerate.utils import broadcast_object_list
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
PHRASES = (*(f"on a {colour} background" for colour in COLOURS), *PLACES)
SAMPLES, MORE = 4, 8  # noisy versions of a photo that each phrase is tried on, and the best ones
BEST = 4
MOST = 20  # photos that are looked at; more are seldom without captions
LEAST = 0.02  # share of the error that a phrase must save, and twice what the next one saves


def tried(subject: Subject) -> list[str]:
    """All captions that `name_backgrounds` will try."""
    held = subject.examples.captions
    return [text for photo in subject.unnamed[:MOST] for text in _options(held[photo]).values()]


def name_backgrounds(objective: Objective, model: nn.Module, progress: bool) -> None:
    """Complete the captions of a subject's unnamed photos by what is behind it.

    model: as the objective's, with nothing learned yet.
    """
    subject, accelerator = objective.subject, objective.accelerator
    quiet = not (progress and accelerator.is_main_process)
    photos = tqdm(subject.unnamed[:MOST], desc="looking at backgrounds", disable=quiet)
    found = [_best(objective, model, photo) for photo in photos]
    broadcast_object_list(found)
    complete(subject, found)
    if accelerator.is_main_process:
        log.info("backgrounds: %s.", ", ".join(phrase or "not named" for phrase in found))


def complete(subject: Subject, phrases: Sequence[str]) -> None:
    """End the captions of a subject's unnamed photos by a phrase each, by none where it is ""."""
    held = list(subject.examples.captions)
    for photo, phrase in zip(subject.unnamed, phrases, strict=False):  # of the first MOST
        held[photo] = f"{held[photo]} {phrase}".strip()
    subject.examples = replace(subject.examples, captions=tuple(held))
    subject.backgrounds = tuple(phrases)
    subject.forget(held)


def _options(caption: str) -> dict[str, str]:
    """A caption as it is, and with each phrase: phrase -> caption."""
    return {"": caption} | {phrase: f"{caption} {phrase}" for phrase in PHRASES}


def _best(objective: Objective, model: nn.Module, photo: int) -> str:
    """The phrase with which the base foretells a photo best, "" where none is clear."""
    examples = objective.subject.examples.only([photo])
    options = _options(examples.captions[0])

    def errors(phrase: str, count: int) -> Tensor:
        named = replace(examples, captions=(options[phrase],))
        return objective.errors(model, objective.fixed(named, count))

    def gains(phrases: Iterable[str], count: int) -> dict[str, float]:
        plain = errors("", count)
        return {text: (1 - errors(text, count) / plain).mean().item() for text in phrases}

    first = gains(PHRASES, SAMPLES)
    best = sorted(first, key=first.get)[-BEST:]
    more = gains(best, MORE)
    saved = {text: (SAMPLES * first[text] + MORE * more[text]) / (SAMPLES + MORE) for text in best}
    *_, second, winner = sorted(best, key=saved.get)
    return winner if saved[winner] > max(LEAST, 2 * saved[second]) else ""
