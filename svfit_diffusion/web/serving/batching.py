"""The queue: what waits first is generated next, together with what else can be in its batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from PIL import Image

from ...generation import Parameters, kind_of
from .metrics import Metrics

Generate = Callable[[Sequence[Parameters]], list[Image.Image]]


class QueueFull(Exception):
    """As many wait as may."""


class Job:
    """A picture that is waited for: its parameters, when it came, and what will come of it."""

    def __init__(self, wanted: Parameters) -> None:
        self.wanted, self.came = wanted, time.monotonic()
        self.result: Future[Image.Image] = Future()


class Batching:
    """Generates what is asked for, in a thread of its own.

    generate: makes the pictures of parameters of one kind. room: how many may wait. most: pictures
    of one batch.
    """

    def __init__(self, generate: Generate, room: int, most: int, metrics: Metrics) -> None:
        self._generate, self.room, self.most, self.metrics = generate, room, most, metrics
        self._waiting: list[Job] = []
        self._change = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="svfit-batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def submit(self, wanted: Parameters) -> Job:
        """Queue a picture; QueueFull where there is no room."""
        job = Job(wanted)
        with self._change:
            if len(self._waiting) >= self.room or self._ended:
                raise QueueFull
            self._waiting.append(job)
            self._change.notify()
        return job

    def position(self, job: Job) -> int:
        """How many wait before it, itself included; 0: it is being generated, or done."""
        with self._change:
            return self._waiting.index(job) + 1 if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more; what is being generated is finished."""
        with self._change:
            if job in self._waiting:
                self._waiting.remove(job)
        job.result.cancel()

    def close(self) -> None:
        """End after the batch under way; who still waits is refused."""
        with self._change:
            self._ended = True
            left, self._waiting = self._waiting, []
            self._change.notify()
        for job in left:
            job.result.set_exception(QueueFull())
        self._thread.join()

    def _work(self) -> None:
        while found := self._next():
            batch = [job for job in found if job.result.set_running_or_notify_cancel()]
            if not batch:
                continue
            start = time.monotonic()
            self.metrics.add("waiting_seconds", sum(start - job.came for job in batch))
            self._draw(batch)
            self.metrics.add("generation_seconds", time.monotonic() - start)
            self.metrics.add("batches")

    def _next(self) -> list[Job]:
        """The next batch, once there is one; nothing at the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return []
            kind = kind_of(self._waiting[0].wanted)
            alike = [job for job in self._waiting if kind_of(job.wanted) == kind]
            batch = alike[: self.most]
            self._waiting = [job for job in self._waiting if job not in batch]
            return batch

    def _draw(self, batch: list[Job]) -> None:
        """Generate a batch; where it fails, its pictures one by one, so that one fault is one's."""
        try:
            images: Any = self._generate([job.wanted for job in batch])
        except Exception as error:
            if len(batch) == 1:
                self.metrics.add("failures")
                batch[0].result.set_exception(error)
                return
            images = None
        if images is None:  # here the error is gone, and with it what its frames held in memory
            for job in batch:
                self._draw([job])
            return
        self.metrics.add("pictures", len(batch))
        for job, image in zip(batch, images, strict=True):
            job.result.set_result(image)
