"""The pipeline that all windows share: each picture is drawn with the concepts it asks for.

Nothing of a window stays behind: before a picture, the concepts on the pipeline are made those
asked for, in that order, under a lock that is held for one picture.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..attention import find_projections
from ..cache import fingerprint
from ..concept import Concept, printable, read_concept, to_bytes
from ..families import base_name, load_base, recognise
from ..generation import generate, parameters, pick_device
from ..matching import adapter_name, clash
from ..pictures import Parameters
from ..pipeline import load_concept, remove_concept, set_concepts

MAX_FILE = 8_000_000  # bytes; the whole spectrum of SDXL in float32 takes half of that
MAX_LABEL = 60  # characters of a stranger's text in one place


@dataclass(frozen=True)
class Card:
    """A concept file that was read and checked. digest: SHA-256 (hex) of what it holds."""

    concept: Concept
    name: str
    size: int
    digest: str

    @property
    def label(self) -> str:
        """One line of plain text: trigger, base, bytes."""
        trigger = printable(self.concept.trigger, MAX_LABEL) or self.name
        return f"{trigger} · on {printable(self.concept.base, MAX_LABEL)} · {self.size:,} bytes"


def read_card(path: str | Path) -> Card:
    """Read a concept file; ValueError names it, without the folder it lies in, and the reason."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise ValueError(f"{path} has {size:,} bytes, but at most {MAX_FILE:,} are read here.")
        concept = read_concept(path)
    except (ValueError, OSError) as error:
        raise ValueError(printable(str(error).replace(str(path), path.name))) from None
    digest = hashlib.sha256(to_bytes(concept)).hexdigest()
    return Card(concept, adapter_name(path.stem), size, digest)


class Studio:
    """A base, and pictures from it with the concepts that each asks for."""

    def __init__(self, base: str) -> None:
        self.device = pick_device()
        dtype = torch.float32 if self.device == "cpu" else torch.float16
        self.pipe = load_base(base, dtype).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.family = recognise(self.pipe)
        self.base = base_name(base)
        self.defaults = parameters(self.pipe, "")
        self._denoiser = getattr(self.pipe, self.family.denoiser)
        self._prints = {
            part: fingerprint(model, find_projections(model), self.family.dtype)
            for part, model in self.family.components(self.pipe).items()
        }
        self._digests: dict[str, str] = {}
        self._lock = threading.Lock()

    def check(self, card: Card) -> None:
        """Refuse a concept of another base with a sentence, without touching the pipeline."""
        concept = card.concept
        wanted = {part: self._prints.get(part) for part in concept.targets}
        if concept.family != self.family.name or dict(concept.fingerprints) != wanted:
            base = printable(concept.base, MAX_LABEL)
            raise ValueError(
                f"{card.name} was learned on {base!r}, not on the base in use here, "
                f"{self.base!r}; start the app with that base (svfit app --base ...)."
            )

    def draw(
        self,
        wanted: Sequence[tuple[Card, float]],
        prompt: str,
        num: int,
        seed: int,
        stepped: Callable[[int, int], None],
        **given: Any,
    ) -> Iterator[tuple[Image.Image, Parameters]]:
        """Draw pictures with the seeds seed, seed + 1, ... and these concepts at these strengths.

        stepped: called with the picture (from 0) and its steps done. given: as for parameters().
        """
        active = named([(card, strength) for card, strength in wanted if strength])
        for i in range(num):
            with self._lock:
                self._use(active)
                with self._watched(functools.partial(stepped, i)):
                    picture = next(generate(self.pipe, prompt, 1, seed + i, **given))
            yield picture

    @contextlib.contextmanager
    def _watched(self, stepped: Callable[[int], None]) -> Iterator[None]:
        """Call `stepped` with the number of denoising steps done, after each."""
        done = itertools.count(1)

        def report(*_: Any) -> None:  # what a hook returns would take the output's place
            stepped(next(done))

        hook = self._denoiser.register_forward_hook(report)
        try:
            yield
        finally:
            hook.remove()

    def _use(self, active: dict[str, tuple[Card, float]]) -> None:
        """Make the concepts on the pipeline these, in this order.

        The order counts: a sum of edits rounds differently in another.
        """
        keep, same = 0, [(name, card.digest) for name, (card, _) in active.items()]
        for here, want in zip(self._digests.items(), same, strict=False):
            if here != want:
                break
            keep += 1
        for name in list(self._digests)[keep:]:
            remove_concept(self.pipe, name)
            del self._digests[name]
        for name, (card, strength) in list(active.items())[keep:]:
            load_concept(self.pipe, card.concept, strength, name)
            self._digests[name] = card.digest
        set_concepts(self.pipe, {name: strength for name, (_, strength) in active.items()})


def named(wanted: Sequence[tuple[Card, float]]) -> dict[str, tuple[Card, float]]:
    """Concepts by a name of their own; ValueError where two would answer to one word."""
    found: dict[str, tuple[Card, float]] = {}
    for card, strength in wanted:
        for other, (held, _) in found.items():
            if word := clash(card.concept.calls(), held.concept.calls()):
                token = printable(word, MAX_LABEL)
                raise ValueError(
                    f"{other} and {card.name} are both called by {token!r}; "
                    "remove one of them, or set its strength to 0."
                )
        names = (f"{card.name}_{i}" for i in itertools.count(2))
        name = card.name
        while name in found:
            name = next(names)
        found[name] = card, strength
    return found
