"""What a training reports into its run's folder: status, losses, previews, the best state."""

from __future__ import annotations

import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

from .runs import Run

PREVIEW_STEPS = 12  # denoising steps of a preview
PREVIEW_TIME_SHARE = 0.2  # of a training's time may go into previews
CURVE_POINTS = 200  # of the loss curve
WRITE_SECONDS = 0.5  # between two writes of the status
TIMED_STEPS = 20  # the last steps, whose median duration predicts the time left


class Reporter:
    """Called after each training step; stops the training, at its best state, on request.

    steps: of the training; None if its length is automatic: AutoLength then keeps the best state.
    """

    def __init__(self, run: Run, steps: int | None, seed: int) -> None:
        self.run, self.steps, self.seed = run, steps, seed
        self.steps_before: int | None = None  # of the training that this one resumes
        status = run.status()
        self.losses: list[tuple[int, float]] = status.get("losses", [])
        self.fixed_noise: list[tuple[int, float]] = status.get("fixed_noise", [])
        self.best: tuple[float, dict[str, Any]] | None = None
        self.smooth, self.next_preview, self.last_write = None, 0.0, 0.0
        self.durations: deque[float] = deque(maxlen=TIMED_STEPS)  # seconds of a step
        self.last_call = self.created = time.monotonic()  # when the step before was reported
        self.prepare_seconds: float | None = None  # until the end of the first step
        (run.folder / "preview").mkdir(exist_ok=True)

    def __call__(self, training: Any, loss: float) -> None:
        """Record a step's loss; now and then a preview, the status, and the best state."""
        if self.prepare_seconds is None:  # the first step's time includes the preparation
            self.prepare_seconds = time.monotonic() - self.created
        else:
            self.durations.append(time.monotonic() - self.last_call)
        if self.steps_before is None:
            self.steps_before = training.step - 1
            self.losses = [point for point in self.losses if point[0] <= self.steps_before]
            self.fixed_noise = [
                point for point in self.fixed_noise if point[0] <= self.steps_before
            ]
        self.smooth = loss if self.smooth is None else 0.9 * self.smooth + 0.1 * loss
        self.losses.append((training.step, round(self.smooth, 5)))
        if training.length:
            self.fixed_noise = [(step, round(value, 5)) for step, value in training.length.curve]
        if time.monotonic() >= self.next_preview:
            self._evaluate(training)
        if self.run.stop_requested():
            training.stopped = "stopped"
            self._measure(training)
            training.final_parameters = self.best and self.best[1]
        ended = bool(training.stopped or training.finished)
        if ended and not self._preview_path(training).is_file():  # the last step is always shown
            self._save_preview(training)
        now = time.monotonic()
        if now - self.last_write > WRITE_SECONDS or ended:
            self._write(training)
            self.last_write = now
        self.last_call = time.monotonic()

    def _evaluate(self, training: Any) -> None:
        """Measure the loss on fixed noise and save a preview, within PREVIEW_TIME_SHARE."""
        start = time.monotonic()
        self._measure(training)
        self._write(training)
        self._save_preview(training)
        took = time.monotonic() - start
        self.next_preview = time.monotonic() + took * (1 / PREVIEW_TIME_SHARE - 1)

    def _measure(self, training: Any) -> None:
        """The loss on fixed noise; the state with the lowest one is kept."""
        from ...training import snapshot

        if training.length:
            return
        with training.as_written():
            loss = training.fixed_noise.error(training.model)
            self.fixed_noise.append((training.step, round(loss, 5)))
            if self.best is None or loss < self.best[0]:
                self.best = loss, snapshot(training.parameters)

    def _save_preview(self, training: Any) -> None:
        """A picture of the first caption, always with the same seed."""
        caption = training.subject.examples.captions[0]
        made = training.previews.sample(caption, [self.seed], PREVIEW_STEPS)
        if self.seed not in made:
            return
        path = self._preview_path(training)
        temporary = path.with_suffix(".tmp")
        made[self.seed].save(temporary, "JPEG", quality=88)
        temporary.replace(path)

    def _preview_path(self, training: Any) -> Path:
        return self.run.folder / "preview" / f"{training.step:06d}.jpg"

    def _step_seconds(self) -> float | None:
        """What a step takes, with its share of the previews; None before there were two."""
        if not self.durations:
            return None
        return statistics.median(self.durations) / (1 - PREVIEW_TIME_SHARE)

    def _write(self, training: Any) -> None:
        per_step = self._step_seconds()
        left = None if None in (per_step, self.steps) else per_step * (self.steps - training.step)
        every = max(1, len(self.losses) // CURVE_POINTS)
        self.run.write(
            state="training",
            step=training.step,
            steps=self.steps,
            left=left,
            step_seconds=per_step,
            prepare_seconds=self.prepare_seconds,
            losses=self.losses[::every],
            fixed_noise=self.fixed_noise,
            backgrounds=training.subject.backgrounds,
            remarks=[text[:1].upper() + text[1:] for text in training.remarks],
        )
