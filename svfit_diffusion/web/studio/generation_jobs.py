"""Generation jobs of the page and its API: checked, started, reported on, stopped."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ...generation import Parameters, grid, is_withheld, size_text
from .cards import Card
from .limits import MAX_ACTIVE_CONCEPTS, MAX_PROMPT, MAX_SEED, MAX_STRENGTH
from .shared_pipeline import Job, Remark, Step, Stopped
from .workspace import Workspace
from .xy_grid import Grid, strengths

COMPARE_PROMPT = "a photo of {} on the beach"  # {}: a concept's trigger
MIN_CELL = 192  # px, a comparison's pictures
DURING_TRAINING = "; a training is running too, so both take longer"

Gallery = list[tuple[Path, str]]  # PNG files of the history, with their captions


@dataclass(frozen=True)
class Progress:
    """How far a job is: a sentence, steps of a total (0: not known), the latest preview.

    remarks: sentences that still matter when the job has ended.
    """

    message: str = ""
    done: int = 0
    total: int = 0
    image: Image.Image | None = None
    remarks: tuple[str, ...] = ()


def check_prompts(prompt: str, negative_prompt: str) -> None:
    """Refuse an empty prompt, and texts that would take long to tokenize."""
    if not prompt.strip():
        raise ValueError("Write what to generate into the prompt first.")
    if max(len(prompt), len(negative_prompt)) > MAX_PROMPT:
        raise ValueError(f"A prompt may have {MAX_PROMPT:,} characters at most.")


def pick_seed(seed: float | None) -> int:
    """The seed of a job; None or a negative one stands for a random one."""
    return random.randint(0, MAX_SEED) if seed is None or seed < 0 else int(seed)


class GenerationJobs:
    """Runs jobs for browser windows, known by a string each; a window can stop its own job."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._stops: dict[str, threading.Event] = {}

    def stop(self, window: str) -> bool:
        """Stop the job of a window; whether there was one."""
        if stop := self._stops.get(window):
            stop.set()
        return stop is not None

    def select(self, strengths: Mapping[str, float]) -> list[tuple[Card, float]]:
        """Concepts of the library, by name, with strengths; ValueError for unusable ones."""
        if not isinstance(strengths, Mapping) or not all(
            isinstance(v, int | float) and 0 <= v <= MAX_STRENGTH for v in strengths.values()
        ):
            raise ValueError(
                f'Concepts must be names with strengths from 0 to {MAX_STRENGTH}: {{"rex": 0.8}}.'
            )
        if len(strengths) > MAX_ACTIVE_CONCEPTS:
            raise ValueError(
                f"At most {MAX_ACTIVE_CONCEPTS} concepts can be used at once; switch some off."
            )
        cards = [(self.workspace.library.get(name).card, v) for name, v in strengths.items()]
        for card, _ in cards:
            self.workspace.pipeline.check(card)
        return cards

    def pictures(self, window: str, job: Job) -> Iterator[tuple[Gallery | None, Progress]]:
        """All pictures so far, None where none is new, and the progress."""
        gallery: Gallery = []
        for finished, progress in self._run(window, job):
            if finished is None:
                yield None, progress
                continue
            image, parameters = finished
            path = self.workspace.history.add(image, parameters)
            withheld = ", withheld by the safety checker" if is_withheld(image) else ""
            gallery.append((path, f"seed {parameters.seed}{withheld}"))
            self._set_missing_preview(job, image)
            message = "" if len(gallery) == job.num else "Next picture"
            yield gallery, Progress(message, remarks=progress.remarks)

    def compare(
        self, window: str, names: Sequence[str], prompt: str, seed: int, options: dict[str, Any]
    ) -> Iterator[tuple[Image.Image | None, Progress]]:
        """A labelled grid, at the end: one concept over its strengths, or several side by side.

        "{}" in the prompt stands for each concept's words.
        """
        plan = strengths(self.cards(names), prompt, seed, options)
        check_prompts(prompt, options.get("negative_prompt", ""))
        for cells, sheet, progress in self.grid(window, plan):
            if sheet is not None or cells is None:
                yield sheet, progress

    def cards(self, names: Sequence[str]) -> list[Card]:
        """One to MAX_ACTIVE_CONCEPTS concepts of the library; ValueError for others."""
        cards = [self.select({name: 1.0})[0][0] for name in names]
        if not 1 <= len(cards) <= MAX_ACTIVE_CONCEPTS:
            raise ValueError(
                f"Choose one concept to vary, or 2 to {MAX_ACTIVE_CONCEPTS} to compare."
            )
        return cards

    def grid(
        self, window: str, plan: Grid
    ) -> Iterator[tuple[Gallery | None, Image.Image | None, Progress]]:
        """The cells so far, None where none is new; the labelled grid, at the end; the progress."""
        cells, gallery, images, remarks = plan.cells(), [], [], {}  # remarks: each once, in order
        for number, (job, caption) in enumerate(cells):
            for finished, progress in self._run(window, job, number, len(cells)):
                remarks |= dict.fromkeys(progress.remarks)
                shown = replace(progress, remarks=tuple(remarks))
                if finished is None:
                    yield None, None, shown
                    continue
                images.append(finished[0])
                gallery = [*gallery, (self.workspace.history.add(*finished), caption)]
                yield gallery, None, shown
            if len(images) == number:  # stopped
                break
        if images:
            captions = [caption for _, caption in cells[: len(images)]]
            columns = len(plan.columns.values)
            sheet = _labelled_grid(images, captions, columns if plan.rows else min(4, columns))
            yield gallery, sheet, Progress(remarks=tuple(remarks))

    def _run(
        self, window: str, job: Job, before: int = 0, of: int | None = None
    ) -> Iterator[tuple[tuple[Image.Image, Parameters] | None, Progress]]:
        """Finished pictures, or None, each with the progress.

        before, of: pictures of the same request that are done, and their total number.
        """
        steps = job.options.get("steps") or self.workspace.pipeline.defaults.steps
        stop = self._stops[window] = threading.Event()
        total, preview, remarks = of or job.num, None, ()
        try:
            for sentence in self._wait_for_memory(stop):
                yield None, Progress(sentence, 0, 1)
            beside = DURING_TRAINING if self.workspace.runs.active() else ""
            for event in self.workspace.pipeline.generate(job, stop):
                if isinstance(event, Remark):
                    remarks += (event.sentence,)
                    continue
                if not isinstance(event, Step):
                    yield event, Progress(remarks=remarks)
                    continue
                preview = event.image or preview
                number = before + event.picture
                done = number * steps + min(event.done, steps)
                message = f"Picture {number + 1} of {total}, step {event.done} of {steps}{beside}"
                yield None, Progress(message, done, total * steps, preview, remarks)
        except Stopped:
            pass
        finally:
            if self._stops.get(window) is stop:
                del self._stops[window]

    def _wait_for_memory(self, stop: threading.Event) -> Iterator[str]:
        """A sentence each second, as long as a training leaves too little memory."""
        while self.workspace.runs.active():
            fits, free, needed = self.workspace.pipeline.memory_check()
            if fits:
                return
            if stop.is_set():
                raise Stopped
            yield (
                f"The training that is running leaves {size_text(free)} of memory, and a picture "
                f"needs about {size_text(needed)}: it waits until the training ends."
            )
            time.sleep(1)

    def _set_missing_preview(self, job: Job, image: Image.Image) -> None:
        """A concept without a preview gets the first picture of it alone."""
        if is_withheld(image):
            return
        used = [card for card, strength in job.concepts if strength]
        if len(used) != 1 or not any(c.word in job.prompt for c in used[0].concept.all_triggers()):
            return
        for entry in self.workspace.library.entries():
            if entry.card.digest == used[0].digest and entry.preview is None:
                self.workspace.library.set_preview(entry.name, image)


def _labelled_grid(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int
) -> Image.Image:
    """Pictures with what they show."""
    side = max(max(image.size) for image in images)
    cell = -(-MIN_CELL // side) * side  # an integer factor keeps small pictures sharp
    return grid(images, min(columns, len(images)), captions, cell)
