"""The pipeline that all windows share: each picture is generated with the concepts of its job.

No window sees another's concepts: before each picture, the job's concepts are loaded in the job's
order, under a lock that is held for one picture.
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

import torch
from PIL import Image

from ...adapter import basis_bytes, find_projections, fingerprint, layout
from ...concept import printable
from ...families import TOYBOX, base_name, load_base, recognise
from ...generation import (
    Parameters,
    generate,
    parameters,
    pick_device,
    pick_dtype,
    without_overflow,
)
from ...pipeline import (
    PromptLength,
    load_concept,
    prompt_length,
    remove_concept,
    set_concepts,
    trigger_clash,
    warn_unread_prompt,
)
from ...sharing import Exported, export_lora
from .bases import free_memory
from .cards import MAX_LABEL, Card
from .familiarity import Familiarity, familiarity
from .foreign_files import convert_lora

PREVIEW_TIME_SHARE = 0.2  # of a picture's time may go into previews of it


class Stopped(Exception):
    """The user pressed Stop."""


@dataclass(frozen=True)
class Step:
    """A denoising step: the picture's number (from 0), steps done, and now and then a preview."""

    picture: int
    done: int
    image: Image.Image | None


@dataclass(frozen=True)
class Remark:
    """A sentence for whoever asked for a job, such as on words that the base does not read."""

    sentence: str


@dataclass(frozen=True)
class Job:
    """What to generate: concepts with strengths, num pictures with seeds seed, seed + 1, ...

    options: of generation.generate, such as steps, guidance, negative_prompt, width, height.
    """

    concepts: Sequence[tuple[Card, float]]
    prompt: str
    num: int
    seed: int
    options: dict[str, Any]


class SharedPipeline:
    """A base, and pictures of it with the concepts of each job."""

    def __init__(self, base: str) -> None:
        self.device = pick_device()
        self._lock = threading.Lock()
        self.switch_base(base)

    def switch_base(self, base: str) -> None:
        """Load another base; after a ValueError the one before is still in use."""
        pipe = load_base(base, pick_dtype(self.device), checked=True).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        family = recognise(pipe)
        fingerprints = {
            part: fingerprint(model, find_projections(model), family.dtype)
            for part, model in family.components(pipe).items()
        }
        with self._lock:
            self.pipe, self.family, self._fingerprints = pipe, family, fingerprints
            self.source, self.base = base, base_name(base)
            self.defaults = parameters(pipe, "")
            self._loaded: dict[str, str] = {}  # adapter name -> digest, in order

    @property
    def is_toybox(self) -> bool:
        """Whether the built-in demo base is in use."""
        return self.base == TOYBOX

    def mismatch(self, card: Card) -> str:
        """Why a concept cannot be used on this base, as a sentence; empty where it can."""
        concept = card.concept
        wanted = {part: self._fingerprints.get(part) for part in concept.targets}
        if concept.family == self.family.name and dict(concept.fingerprints) == wanted:
            return ""
        return (
            f"{card.name} was trained on {card.base!r}, not on the base in use here, "
            f"{self.base!r}; choose that base first."
        )

    def check(self, card: Card) -> None:
        """ValueError for a concept of another base; the pipeline is not touched."""
        if reason := self.mismatch(card):
            raise ValueError(reason)

    def basis_size(self, card: Card) -> int:
        """Bytes of the basis of a concept that fits, which is computed when it is first used."""
        plan = layout(self.family.components(self.pipe), card.concept.targets)
        ranks = zip(plan, card.concept.ranks, strict=False)
        return sum(basis_bytes((p.out_features, p.in_features), rank) for p, rank in ranks)

    def memory_check(self) -> tuple[bool, int, int]:
        """Whether there is memory for a picture now; bytes that are free, and needed.

        Needed is a guess: activations take about as much as the denoiser's weights.
        """
        weights = getattr(self.pipe, self.family.denoiser).parameters()
        needed = sum(p.numel() * p.element_size() for p in weights)
        free = free_memory()
        return free > needed, free, needed

    def export(self, card: Card, path: Path, preview: Image.Image | None) -> Exported:
        """Write a concept as a LoRA that other programs read, with its sidecars, beside `path`."""
        self.check(card)
        with self._lock:
            self._activate({})  # the base is recognised by its weights without concepts
            return export_lora(card.concept, self.pipe, path, preview=preview)

    def convert_lora(self, path: str) -> tuple[Path, str]:
        """A concept file made of a LoRA of the base in use, and a sentence on what it keeps."""
        with self._lock:
            self._activate({})
            return convert_lora(path, self.pipe)

    def prompt_length(self, prompt: str) -> PromptLength | None:
        """How long a prompt is for the base in use; None while it is busy, since this never waits.

        A word of a concept that is not loaded counts as the letters it is written in.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return prompt_length(self.pipe, prompt)
        finally:
            self._lock.release()

    def familiarity(self, photos: Sequence[Image.Image]) -> Familiarity:
        """Whether the base alone knows such photos; it waits for the picture under way."""
        with self._lock:
            self._activate({})
            return familiarity(self.pipe, photos)

    def generate(
        self, job: Job, stop: threading.Event
    ) -> Iterator[Step | Remark | tuple[Image.Image, Parameters]]:
        """Generate a job's pictures: remarks, each step, each picture with its parameters.

        stop: ends it after the current step. Closing this generator stops it too.
        """
        active = unique_names(job.concepts)
        events: queue.Queue[Any] = queue.Queue()
        thread = threading.Thread(target=self._generate, args=(job, active, stop, events.put))
        thread.start()
        try:
            while (event := events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            stop.set()
            thread.join()

    def _generate(self, job: Job, active: dict, stop: threading.Event, put: Any) -> None:
        """The thread behind generate(): an exception is put like the other events, then None."""
        try:
            for i, seed in enumerate(range(job.seed, job.seed + job.num)):
                with self._lock:
                    self._activate(active)
                    if i == 0:
                        self._remark(job, put)
                    callback = self._step_callback(i, stop, put)
                    put(next(generate(self.pipe, job.prompt, 1, seed, callback, **job.options)))
        except Stopped:
            pass
        except BaseException as error:
            put(error)
        put(None)

    def _remark(self, job: Job, put: Any) -> None:
        """Report what the base does not read of the prompts, with the job's concepts loaded."""
        negative = job.options.get("negative_prompt") or ""
        for what, text in (("prompt", job.prompt), ("negative prompt", negative)):
            if sentence := warn_unread_prompt(self.pipe, text, what):
                put(Remark(f"{sentence[:1].upper()}{sentence[1:]}"))

    def _step_callback(self, picture: int, stop: threading.Event, put: Any) -> Any:
        """A function for after each step: reports the step, and decodes a preview now and then."""
        next_preview = time.monotonic()

        def callback(done: int, latents: torch.Tensor) -> None:
            nonlocal next_preview
            if stop.is_set():
                raise Stopped
            image, start = None, time.monotonic()
            if start >= next_preview:
                image = self._decode(latents)
                took = time.monotonic() - start
                next_preview = time.monotonic() + took * (1 / PREVIEW_TIME_SHARE - 1)
            put(Step(picture, done, image))

        return callback

    def _decode(self, latents: torch.Tensor) -> Image.Image:
        """Latents [1, c, h, w] as the VAE reads them -> a picture."""
        with without_overflow(self.pipe.vae):
            pixels = recognise(self.pipe).decode(self.pipe.vae, latents)
        return self.pipe.image_processor.postprocess(pixels, output_type="pil")[0]

    def _activate(self, active: dict[str, tuple[Card, float]]) -> None:
        """Load these concepts in this order, and remove all others.

        The order matters: a sum of edits rounds differently in another order.
        """
        keep, wanted = 0, [(name, card.digest) for name, (card, _) in active.items()]
        for here, want in zip(self._loaded.items(), wanted, strict=False):
            if here != want:
                break
            keep += 1
        for name in list(self._loaded)[keep:]:
            remove_concept(self.pipe, name)
            del self._loaded[name]
        for name, (card, strength) in list(active.items())[keep:]:
            load_concept(self.pipe, card.concept, strength, name)
            self._loaded[name] = card.digest
        set_concepts(self.pipe, {name: strength for name, (_, strength) in active.items()})


def unique_names(concepts: Sequence[tuple[Card, float]]) -> dict[str, tuple[Card, float]]:
    """Concepts by an adapter name each; ValueError where two share a trigger word."""
    found: dict[str, tuple[Card, float]] = {}
    for card, strength in concepts:
        for other, (known, _) in found.items():
            if word := trigger_clash(card.concept.all_triggers(), known.concept.all_triggers()):
                token = printable(word, MAX_LABEL)
                raise ValueError(
                    f"{other} and {card.name} are both called by {token!r}; "
                    "give one of them another word under Share, or switch it off."
                )
        names = (f"{card.name}_{i}" for i in itertools.count(2))
        name = card.name
        while name in found:
            name = next(names)
        found[name] = card, strength
    return found
