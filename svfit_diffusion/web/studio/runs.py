"""Trainings as folders: each runs in a process of its own, and any page can follow it.

    runs/<time>/config.json     the settings, for worker.py
    runs/<time>/status.json     state, step, losses ..., written by the worker
    runs/<time>/alive.lock      held by the worker while its process lives, however it ends
    runs/<time>/stop            asks the worker to stop
    runs/<time>/photos, preview, log.txt, <name>/<name>.safetensors, sheet.png

The app holds no state of a training: a reloaded page, another window and a restarted app show
the same. This module imports nothing heavy: the worker takes its lock before it loads torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

T = TypeVar("T")
TRIES, TRY_SECONDS = 20, 0.05  # of a file that another process has open
MAX_RUNS = 5  # folders of trainings that are kept
START_TIMEOUT = 30.0  # seconds that a worker may take until it holds its lock
SHOW_SECONDS = 86_400.0  # that a finished training is shown
ACTIVE_STATES = ("starting", "preparing", "training", "finishing")
SUCCESS_STATES = ("done", "stopped")  # there is a concept
ENDED_STATES = (*SUCCESS_STATES, "cancelled", "failed")  # cancelled: before the first step


@dataclass(frozen=True)
class Run:
    """One training, by its folder."""

    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """The settings that it was started with."""
        return json.loads((self.folder / "config.json").read_text())

    @property
    def base(self) -> str:
        """The base that it trains on, as it was named; "" where the run was deleted just now."""
        try:
            return self.config["training"]["pretrained_model_name_or_path"]
        except (OSError, ValueError, KeyError):
            return ""

    @property
    def trigger(self) -> str:
        """How prompts will call what it teaches; "" where the run was deleted just now."""
        try:
            return self.config["trigger"]
        except (OSError, ValueError, KeyError):
            return ""

    def write_config(self, config: dict[str, Any]) -> None:
        """Store the settings for the worker."""
        (self.folder / "config.json").write_text(json.dumps(config))

    def alive(self) -> bool:
        """Whether its process lives: it holds the lock, or was started less than 30 s ago."""
        if self._read_status().get("state") not in ACTIVE_STATES:
            return False
        lock = FileLock(self.folder / "alive.lock")
        try:
            with lock.acquire(timeout=0):
                status = self._read_status()
        except Timeout:
            return True
        recent = time.time() - status.get("updated", 0) < START_TIMEOUT
        return status.get("state") == "starting" and recent

    def status(self) -> dict[str, Any]:
        """What the worker wrote last; "failed" if its process ended without reporting it.

        state: one of ACTIVE_STATES, or "done", "stopped", "failed". message: one sentence.
        """
        alive, status = self.alive(), self._read_status()  # in this order: it writes, then ends
        if status.get("state") in ACTIVE_STATES and not alive:
            step = status.get("step", 0)
            status |= {
                "state": "failed",
                "message": f"The training ended at step {step} without an error message, perhaps "
                "for lack of memory; close other programs, or use a smaller base.",
            }
        return status

    def stop(self) -> None:
        """Ask it to stop after the current step; what was learned is kept."""
        (self.folder / "stop").touch()

    def stop_requested(self) -> bool:
        """Whether stop() was called."""
        return (self.folder / "stop").exists()

    def write(self, **status: Any) -> None:
        """Update fields of the status atomically."""
        path = self.folder / "status.json"
        temporary = path.with_name(f".status-{secrets.token_hex(4)}")
        temporary.write_text(json.dumps(self._read_status() | status | {"updated": time.time()}))
        patient(lambda: os.replace(temporary, path))

    def resumable(self) -> bool:
        """Whether it was stopped or failed, and can go on from a checkpoint."""
        status = self.status()
        ended = status.get("state") in ("stopped", "cancelled", "failed")
        return ended and not status.get("diverged")

    def previews(self) -> list[Path]:
        """The previews in the order of their steps."""
        return sorted((self.folder / "preview").glob("*.jpg"))

    def photos(self) -> list[Path]:
        """The photos that it trains on."""
        return sorted((self.folder / "photos").glob("*.png"))

    def scenes(self) -> list[tuple[Path, Path]]:
        """Pictures of the same scenes before and after the training, once it has ended."""
        before = sorted((self.folder / "scenes").glob("*-before.png"))
        return [(path, path.with_name(path.name.replace("before", "after"))) for path in before]

    def version(self) -> str:
        """Changes whenever the status does, each second of the preparation, and at a stop."""
        status = self.status()
        second = int(time.time()) if status.get("state") == "preparing" else ""
        state = f"{status.get('state')} {second} {self.stop_requested()}"
        return f"{self.folder.name} {status.get('updated')} {state}"

    def _read_status(self) -> dict[str, Any]:
        try:
            return json.loads(patient((self.folder / "status.json").read_text))
        except (OSError, ValueError):  # deleted by another window
            return {}


def patient(work: Callable[[], T]) -> T:
    """What `work` returns, tried again while another process has the file open, as on Windows."""
    for _ in range(TRIES):
        try:
            return work()
        except PermissionError:
            time.sleep(TRY_SECONDS)
    return work()


@dataclass(frozen=True)
class Preparation:
    """seconds: since it began. expected: what the last one on the same base took, if known.

    photo, photos: the one that the base looks at, from 1, and how many; 0 before the first.
    """

    seconds: float
    expected: float | None
    photo: int = 0
    photos: int = 0

    @property
    def percent(self) -> float | None:
        """How much is done, at most 99, by photos or else by time; None where neither is known."""
        if self.photos:
            return min(100 * (self.photo - 1) / self.photos, 99)
        return min(100 * self.seconds / self.expected, 99) if self.expected else None


class Runs:
    """The trainings of one data folder, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder, folder / "runs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".runs.lock", timeout=30)

    def latest(self) -> Run | None:
        """The training to show: it is running, or ended less than a day ago."""
        runs = self._all()
        if not runs:
            return None
        status = runs[-1].status()
        recent = time.time() - status.get("updated", 0) < SHOW_SECONDS
        return runs[-1] if status.get("state") in ACTIVE_STATES or recent else None

    def active(self) -> Run | None:
        """The training that is running, if there is one."""
        run = self.latest()
        return run if run and run.alive() else None

    def preparation(self, run: Run) -> Preparation:
        """How far a run is before its first step."""
        now, status = time.time(), run.status()
        seconds = now - status.get("preparing_since", now)
        expected = self.last_known("prepare_seconds", run.base, run)
        return Preparation(seconds, expected, *status.get("looking_at", (0, 0)))

    def last_known(self, key: str, base: str, besides: Run | None = None) -> Any:
        """A field of the status of the last training on a base that has it; None if none has."""
        others = (run for run in reversed(self._all()) if run != besides and run.base == base)
        found = (run.status().get(key) for run in others)
        return next((value for value in found if value is not None), None)

    @contextlib.contextmanager
    def new_run(self) -> Iterator[Run]:
        """A folder for photos and settings; the training starts when the block ends without error.

        Raises ValueError while another training runs.
        """
        with self._lock:
            self._require_idle()
            for old in self._all()[: -MAX_RUNS + 1]:
                shutil.rmtree(old.folder, ignore_errors=True)
            run = Run(self.folder / f"{time.time_ns():020d}")
            run.folder.mkdir(mode=0o700)
            try:
                yield run
            except BaseException:
                shutil.rmtree(run.folder, ignore_errors=True)
                raise
            run.write(state="starting", step=0, started=time.time())
            self._launch(run)

    def resume(self) -> Run:
        """Resume the latest training from its last checkpoint; ValueError where it cannot be."""
        with self._lock:
            self._require_idle()
            run = self.latest()
            if run is None or not run.resumable():
                raise ValueError("There is no training to resume; start a new one.")
            (run.folder / "stop").unlink(missing_ok=True)
            run.write(state="starting", message="")
            self._launch(run)
        return run

    def _require_idle(self) -> None:
        if self.active():
            raise ValueError("A training is running; wait until it ends, or stop it first.")

    def _launch(self, run: Run) -> None:
        """Start the worker in a session of its own: it outlives the app and its terminal."""
        command = [sys.executable, "-m", f"{__package__}.worker", str(run.folder)]
        paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "SVFIT_HOME": str(self.home),
        }
        with open(run.folder / "log.txt", "ab") as log:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )

    def _all(self) -> list[Run]:
        return [Run(path) for path in sorted(self.folder.iterdir()) if path.name.isdecimal()]
