"""The process of one training: `python -m svfit_diffusion.web.studio.worker <run's folder>`.

It writes how it stands into the run's folder, draws previews at one seed, and puts what was learned
into the library, whether or not a page is open.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from .runs import Run

if TYPE_CHECKING:
    from PIL import Image

PREVIEW_STEPS = 12  # denoising steps of a preview
PREVIEW_SHARE = 0.2  # of the time may go into previews
SCENES = ("a photo of {} on the beach", "a photo of {} in the snow", "a photo of {} at night")
SHEET_PHOTOS = 9
CURVE = 200  # points of the loss curve
MAX_REASON = 300  # characters


def main(folder: str) -> int:
    """Train as the run's config.json says; returns the exit status."""
    run = Run(Path(folder))
    try:
        with FileLock(run.folder / "alive.lock").acquire(timeout=5):
            return _work(run)
    except Timeout:
        return 2  # another process works on it


def _work(run: Run) -> int:
    try:
        run.write(state="preparing")
        from ...settings import AUTO, TrainConfig
        from ...training import train

        resumed = {"resume_from_checkpoint": "latest"} if run.status().get("step") else {}
        config = TrainConfig(**run.config["training"], **resumed)
        known = None if config.max_train_steps == AUTO else config.max_train_steps
        reporter = Reporter(run, known, config.seed)
        trained = train(config, progress=False, report=reporter)
        told = filter(None, (*trained.advice, trained.length))
        if said := trained.stopped if trained.exit_status else " ".join(told):
            run.write(message=f"{said[:1].upper()}{said[1:]}")
        losses = {"loss_before": trained.loss_before, "loss_after": trained.loss_after}
        run.write(state="finishing", diverged=trained.exit_status == 1, **losses)
        _present(run, config, trained)
        run.write(state="stopped" if trained.stopped else "done", step=trained.steps)
        return 0
    except BaseException as error:
        traceback.print_exc()  # before the page sends anyone to the log
        run.write(state="failed", message=_sentence(error))
        return 1


def _sentence(error: BaseException) -> str:
    """What went wrong, for the page; the log holds the rest."""
    if isinstance(error, ValueError | OSError):
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        return f"{reason[:1].upper()}{reason[1:MAX_REASON]}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There was not enough memory for this training; choose a smaller base or size."
    return f"The training failed ({type(error).__name__}); its folder holds a log."


class Reporter:
    """Called after each step: status, previews, and the best state so far.

    steps: of the training, None where its length is automatic; it keeps its best itself then.
    """

    def __init__(self, run: Run, steps: int | None, seed: int) -> None:
        self.run, self.steps, self.seed = run, steps, seed
        self.before: int | None = None  # steps of the training that this one resumes
        written = run.status()
        self.losses: list[tuple[int, float]] = written.get("losses", [])
        self.held_out: list[tuple[int, float]] = written.get("held_out", [])
        self.best: tuple[float, dict[str, Any]] | None = None
        self.smooth, self.next_look, self.written = None, 0.0, 0.0
        self.began, self.looking = time.monotonic(), 0.0
        (run.folder / "preview").mkdir(exist_ok=True)

    def __call__(self, training: Any, loss: float) -> None:
        """Write down a step; stop, at the best state, where that was asked for."""
        if self.before is None:
            self.before = training.step - 1
            self.losses = [point for point in self.losses if point[0] <= self.before]
            self.held_out = [point for point in self.held_out if point[0] <= self.before]
        self.smooth = loss if self.smooth is None else 0.9 * self.smooth + 0.1 * loss
        self.losses.append((training.step, round(self.smooth, 5)))
        if training.length:
            self.held_out = [(step, round(value, 5)) for step, value in training.length.curve]
        if time.monotonic() >= self.next_look:
            self._look(training)
        if self.run.asked_to_stop():
            training.stopped = "stopped"
            self._measure(training)
            training.final_parameters = self.best and self.best[1]
        now = time.monotonic()
        if now - self.written > 0.5 or training.stopped or training.finished:
            self._write(training)
            self.written = now

    def _look(self, training: Any) -> None:
        """Draw a preview and measure the loss at fixed noise; not too often."""
        start = time.monotonic()
        self._measure(training)
        self._write(training)
        self._draw(training)
        took = time.monotonic() - start
        self.looking += took
        self.next_look = time.monotonic() + took * (1 / PREVIEW_SHARE - 1)

    def _measure(self, training: Any) -> None:
        from ...training import snapshot

        if training.length:
            return
        loss = training.fixed_noise.error(training.model)
        self.held_out.append((training.step, round(loss, 5)))
        if self.best is None or loss < self.best[0]:
            self.best = loss, snapshot(training.parameters)

    def _draw(self, training: Any) -> None:
        subject = training.subject
        caption = subject.examples.captions[0]  # as the first photo shows it
        image = training.previews.sample(caption, [self.seed], PREVIEW_STEPS)[0]
        path = self.run.folder / "preview" / f"{training.step:06d}.jpg"
        temporary = path.with_suffix(".tmp")
        image.save(temporary, "JPEG", quality=88)
        temporary.replace(path)

    def _write(self, training: Any) -> None:
        step = training.step
        each = (time.monotonic() - self.began - self.looking) / (step - self.before)
        every = max(1, len(self.losses) // CURVE)
        self.run.write(
            state="training",
            step=step,
            steps=self.steps,
            left=self.steps and each * (self.steps - step) / (1 - PREVIEW_SHARE),
            losses=self.losses[::every],
            held_out=self.held_out,
            backgrounds=training.subject.backgrounds,
            summary=training.summary,
            remarks=[text[:1].upper() + text[1:] for text in training.remarks],
        )


def _present(run: Run, config: Any, trained: Any) -> None:
    """Put the file into the library, and draw a sheet with a fresh base and the file.

    What the same training gave when it was stopped before makes room, and goes into the bin.
    """
    from ...generation import save_png
    from .cards import read_card
    from .library import Library

    library, before = Library(run.folder.parents[1]), run.status().get("concept", "")
    held = library.get(before).card.digest if before in library.names() else None
    if held not in (None, read_card(trained.path).digest):
        library.delete(before)
    name = library.add(trained.path, before)
    size = trained.path.stat().st_size
    run.write(concept=name, trigger=trained.concept.trigger, file=trained.path.name, bytes=size)
    try:
        picture, first = _sheet(config, trained)
    except (ValueError, RuntimeError) as error:  # the file is there all the same
        run.write(message=f"The sheet could not be drawn. {_sentence(error)}")
        return
    save_png(picture, run.folder / "sheet.png")
    library.set_preview(name, first)


def _sheet(config: Any, trained: Any) -> tuple[Image.Image, Image.Image]:
    """The story in one picture, and its first scene."""
    from ...data import read_folder
    from ...families import load_base
    from ...generation import generate, pick_device, sheet
    from ...pipeline import load_concept
    from ...training import DTYPES

    pipe = load_base(config.pretrained_model_name_or_path, DTYPES[config.mixed_precision or "no"])
    pipe.to(pick_device()).set_progress_bar_config(disable=True)
    prompts = [scene.format(trained.concept.trigger) for scene in SCENES]
    before, _ = next(generate(pipe, prompts[0], seed=config.seed))
    load_concept(pipe, trained.path)
    drawn = [(next(generate(pipe, p, seed=config.seed))[0], p) for p in prompts]
    photos = [photo.image for photo in read_folder(config.instance_data_dir)[0]][:SHEET_PHOTOS]
    size = trained.path.stat().st_size
    return sheet(photos, trained.path.name, size, (before, prompts[0]), drawn), drawn[0][0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
