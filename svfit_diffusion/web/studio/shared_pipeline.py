"""The pipeline that all windows share: each picture is drawn with the concepts it asks for.

Nothing of a window stays behind: before a picture, the concepts on the pipeline are made those
asked for, in that order, under a lock that is held for one picture.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from ...adapter import find_projections, fingerprint
from ...concept import printable
from ...families import TOYBOX, base_name, load_base, recognise
from ...generation import Parameters, generate, parameters, pick_device, pick_dtype
from ...pipeline import load_concept, remove_concept, set_concepts, trigger_clash
from ...sharing import Exported, export_lora
from .cards import MAX_LABEL, Card

LOOK_SHARE = 0.2  # of a picture's time may go into showing it half done


class Stopped(Exception):
    """The user pressed Stop."""


@dataclass(frozen=True)
class Step:
    """A picture half done: its number (from 0), its steps done, and, now and then, its look."""

    picture: int
    done: int
    image: Image.Image | None


@dataclass(frozen=True)
class Job:
    """What to draw: concepts with their strengths, pictures with the seeds seed, seed + 1, ..."""

    wanted: Sequence[tuple[Card, float]]
    prompt: str
    num: int
    seed: int
    options: dict[str, Any]


class Studio:
    """A base, and pictures from it with the concepts that each asks for."""

    def __init__(self, base: str) -> None:
        self.device = pick_device()
        self._lock = threading.Lock()
        self.use(base)

    def use(self, base: str) -> None:
        """Load a base in the place of the one in use; ValueError, and the old one stays."""
        pipe = load_base(base, pick_dtype(self.device), checked=True).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        family = recognise(pipe)
        prints = {
            part: fingerprint(model, find_projections(model), family.dtype)
            for part, model in family.components(pipe).items()
        }
        with self._lock:
            self.pipe, self.family, self._prints = pipe, family, prints
            self.source, self.base = base, base_name(base)
            self.defaults = parameters(pipe, "")
            self._digests: dict[str, str] = {}

    @property
    def is_toybox(self) -> bool:
        """Whether the demo base is in use."""
        return self.base == TOYBOX

    def misfit(self, card: Card) -> str:
        """Why a concept cannot be used on this base, as a sentence; empty where it can."""
        concept = card.concept
        wanted = {part: self._prints.get(part) for part in concept.targets}
        if concept.family == self.family.name and dict(concept.fingerprints) == wanted:
            return ""
        return (
            f"{card.name} was learned on {card.base!r}, not on the base in use here, "
            f"{self.base!r}; choose that base first."
        )

    def check(self, card: Card) -> None:
        """Refuse a concept of another base with a sentence, without touching the pipeline."""
        if reason := self.misfit(card):
            raise ValueError(reason)

    def room(self) -> tuple[bool, int, int]:
        """Whether a picture fits into memory now; bytes that are free, and about those needed.

        Needed is a guess: as much as the denoiser's weights, for what it computes on the way.
        """
        weights = getattr(self.pipe, self.family.denoiser).parameters()
        needed = sum(p.numel() * p.element_size() for p in weights)
        cuda = self.device == "cuda"
        free = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
        return free > needed, free, needed

    def export(self, card: Card, path: Path, preview: Image.Image | None) -> Exported:
        """Write a concept as a LoRA that other programs read, with its sidecars, beside `path`."""
        self.check(card)
        with self._lock:
            self._use({})  # the base is known by its own weights
            return export_lora(card.concept, self.pipe, path, preview=preview)

    def draw(
        self, job: Job, stop: threading.Event
    ) -> Iterator[Step | tuple[Image.Image, Parameters]]:
        """Draw a job's pictures: steps as they are done, and each picture with its parameters.

        stop: ends it after the step under way. A caller who goes away stops it too.
        """
        active = named([(card, strength) for card, strength in job.wanted if strength])
        events: queue.Queue[Any] = queue.Queue()
        thread = threading.Thread(target=self._draw, args=(job, active, stop, events.put))
        thread.start()
        try:
            while (event := events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            stop.set()
            thread.join()

    def _draw(self, job: Job, active: dict, stop: threading.Event, put: Any) -> None:
        """What draw() does, in a thread of its own: what goes wrong is put like the rest."""
        try:
            for i, seed in enumerate(range(job.seed, job.seed + job.num)):
                with self._lock:
                    self._use(active)
                    watch = self._watch(i, stop, put)
                    put(next(generate(self.pipe, job.prompt, 1, seed, watch, **job.options)))
        except Stopped:
            pass
        except BaseException as error:
            put(error)
        put(None)

    def _watch(self, picture: int, stop: threading.Event, put: Any) -> Any:
        """Called after each step of a picture: tells the steps done, and shows it now and then."""
        next_look = time.monotonic()

        def watch(done: int, latents: torch.Tensor) -> None:
            nonlocal next_look
            if stop.is_set():
                raise Stopped
            image, start = None, time.monotonic()
            if start >= next_look:
                image = self._decode(latents)
                took = time.monotonic() - start
                next_look = time.monotonic() + took * (1 / LOOK_SHARE - 1)
            put(Step(picture, done, image))

        return watch

    def _decode(self, latents: torch.Tensor) -> Image.Image:
        """Latents [1, c, h, w] as the VAE reads them -> a picture."""
        vae = self.pipe.vae
        pixels = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return self.pipe.image_processor.postprocess(pixels, output_type="pil")[0]

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
            if word := trigger_clash(card.concept.calls(), held.concept.calls()):
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
