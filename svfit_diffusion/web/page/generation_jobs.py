"""Pictures for the page and its API: jobs, the wait for memory, what is seen on the way."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ...generation import Parameters, grid, is_withheld, save_png, size_text
from ..studio import MAX_PROMPT, MAX_SEED, MAX_STRENGTH, SLOTS, Card, Job, Step, Stopped, Workspace
from . import snippets

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
AGAINST = (0.5, 1.0, 1.5)
TILE = 192  # px of a comparison's pictures at least

Gallery = list[tuple[str, str]]


def check_prompts(prompt: str, negative_prompt: str) -> None:
    """Refuse an empty prompt, and texts that only take long to cut."""
    if not prompt.strip():
        raise ValueError("Write what to draw into the prompt first.")
    if max(len(prompt), len(negative_prompt)) > MAX_PROMPT:
        raise ValueError(f"A prompt may have {MAX_PROMPT:,} characters at most.")


def chosen_seed(seed: float | None) -> int:
    """The seed of a job: -1 or none stands for a random one."""
    return random.randint(0, MAX_SEED) if seed is None or seed < 0 else int(seed)


class Drawing:
    """Draws for windows; each window can stop what it asked for."""

    def __init__(self, desk: Workspace) -> None:
        self.desk = desk
        self._stops: dict[str, threading.Event] = {}

    def stop(self, window: str) -> None:
        """End what a window has under way."""
        if window in self._stops:
            self._stops[window].set()

    def stopped(self) -> str:
        """What stands in the place of the live view, once the last word of the job is through."""
        time.sleep(0.5)
        return snippets.note("Stopped.")

    def wanted(self, concepts: Mapping[str, float]) -> list[tuple[Card, float]]:
        """Concepts of the library, by name, with their strengths; ValueError for unusable ones."""
        if not isinstance(concepts, Mapping) or not all(
            isinstance(v, int | float) and 0 <= v <= MAX_STRENGTH for v in concepts.values()
        ):
            raise ValueError(
                f'Concepts must be names with strengths from 0 to {MAX_STRENGTH}: {{"rex": 0.8}}.'
            )
        if sum(v > 0 for v in concepts.values()) > SLOTS:
            raise ValueError(f"At most {SLOTS} concepts can be used at once; switch some off.")
        cards = [(self.desk.library.get(name).card, v) for name, v in concepts.items() if v]
        for card, _ in cards:
            self.desk.studio.check(card)
        return cards

    def pictures(self, window: str, job: Job) -> Iterator[tuple[Gallery | None, str]]:
        """A job's pictures as PNG files with captions, None where none is new, and a live view."""
        made: Gallery = []
        with tempfile.TemporaryDirectory() as folder:  # the gallery takes a copy
            for event, live in self._events(window, job):
                if event is None:
                    yield None, live
                    continue
                image, parameters = event
                path = Path(folder, f"{parameters.seed:010d}.png")
                save_png(image, path, parameters)
                note = ", withheld by the safety checker" if is_withheld(image) else ""
                made.append((str(path), f"seed {parameters.seed}{note}"))
                self._first_look(job, image)
                yield made, snippets.note("" if len(made) == job.num else "Next picture")

    def compare(
        self, window: str, names: list[str], prompt: str, seed: int, options: dict[str, Any]
    ) -> Iterator[tuple[Image.Image | None, str]]:
        """A labelled grid: one concept over its strengths, several against one another.

        "{}" in the prompt stands for each concept's trigger.
        """
        cards = [self.wanted({name: 1.0})[0][0] for name in names]
        if not 1 <= len(cards) <= SLOTS:
            raise ValueError(f"Choose one concept to vary, or 2 to {SLOTS} to compare.")
        check_prompts(prompt, options.get("negative_prompt", ""))
        one = len(cards) == 1
        cells = [(card, s) for s in (STRENGTHS if one else AGAINST) for card in cards]
        images, captions = [], []
        for number, (card, strength) in enumerate(cells):
            text = prompt.replace("{}", card.trigger)
            job = Job([(card, strength)], text, 1, seed, options)
            for event, live in self._events(window, job, number, len(cells)):
                if event is not None:
                    images.append(event[0])
                    captions.append(
                        f"strength {strength:g}" if one else f"{card.trigger} at {strength:g}"
                    )
                yield None, live
            if len(images) == number:  # stopped
                break
        if images:
            side = max(max(image.size) for image in images)
            cell = -(-TILE // side) * side  # whole factors keep small pictures sharp
            columns = min(4, len(images)) if one else len(cards)
            yield grid(images, columns, captions, cell), snippets.note("")

    def _events(
        self, window: str, job: Job, before: int = 0, of: int | None = None
    ) -> Iterator[tuple[tuple[Image.Image, Parameters] | None, str]]:
        """Finished pictures, or None, each with a live view. before, of: jobs done and to do."""
        steps = job.options.get("steps") or self.desk.studio.defaults.steps
        stop = self._stops[window] = threading.Event()
        total, face = of or job.num, ""
        try:
            beside = ""
            for beside, free in self._turn(stop):
                if not free:
                    yield None, snippets.drawing(0, 1, beside)
            for event in self.desk.studio.draw(job, stop):
                if not isinstance(event, Step):
                    yield event, ""
                    continue
                if event.image:
                    face = snippets.picture(event.image, 384)
                number = before + event.picture
                done = number * steps + min(event.done, steps)
                note = f"Picture {number + 1} of {total}, step {event.done} of {steps}{beside}"
                yield None, snippets.drawing(done, total * steps, note, face)
        except Stopped:
            pass
        finally:
            if self._stops.get(window) is stop:
                del self._stops[window]

    def _turn(self, stop: threading.Event) -> Iterator[tuple[str, bool]]:
        """Wait until a training under way leaves room: sentences, and whether there is room."""
        while self.desk.runs.going():
            fits, free, needed = self.desk.studio.room()
            if fits:
                yield "; a training runs beside it, so both take longer", True
                return
            if stop.is_set():
                raise Stopped
            yield (
                f"The training under way leaves {size_text(free)} of memory and a picture takes "
                f"about {size_text(needed)}: it waits for the training's end.",
                False,
            )
            time.sleep(1)

    def _first_look(self, job: Job, image: Image.Image) -> None:
        """A concept that has no picture yet gets the first that shows it alone."""
        if is_withheld(image):
            return
        used = [card for card, strength in job.wanted if strength]
        if len(used) != 1 or not any(c.word in job.prompt for c in used[0].concept.calls()):
            return
        for entry in self.desk.library.entries():
            if entry.card.digest == used[0].digest and entry.preview is None:
                self.desk.library.set_preview(entry.name, image)
