"""Trainings as folders: started in a process of their own, found again by whoever looks.

    runs/<time>/config.json     the settings, for worker.py
    runs/<time>/status.json     how it stands, written by the worker
    runs/<time>/alive.lock      held by the worker as long as it lives, however it ends
    runs/<time>/stop            asks the worker to end
    runs/<time>/photos, preview, log.txt, <name>/<name>.safetensors, sheet.png

Nothing of a training lives in the app: a reloaded page, another window and a restarted app see
the same. This module imports nothing heavy: the worker locks before it loads torch.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

KEPT_RUNS = 5
STARTING = 30.0  # seconds a worker may take until it holds its lock
SHOWN_FOR = 86_400.0  # seconds that a finished training is shown
GOING = ("starting", "preparing", "training", "finishing")


@dataclass(frozen=True)
class Run:
    """One training, by its folder."""

    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """The settings it was started with."""
        return json.loads((self.folder / "config.json").read_text())

    def alive(self) -> bool:
        """Whether its process lives: it holds the lock, or was started just now."""
        if self._written().get("state") not in GOING:
            return False
        lock = FileLock(self.folder / "alive.lock")
        try:
            with lock.acquire(timeout=0):
                written = self._written()
        except Timeout:
            return True
        fresh = time.time() - written.get("updated", 0) < STARTING
        return written.get("state") == "starting" and fresh

    def status(self) -> dict[str, Any]:
        """How it stands. state: one of GOING, or done, stopped, failed. message: one sentence.

        A process that ended without saying so has failed.
        """
        alive, status = self.alive(), self._written()  # in this order: it writes, then it ends
        if status.get("state") in GOING and not alive:
            step = status.get("step", 0)
            status |= {
                "state": "failed",
                "message": f"The training ended at step {step} without a word, perhaps for lack "
                "of memory; close other programs, or start it again with a smaller base.",
            }
        return status

    def stop(self) -> None:
        """Ask it to end after the step under way, with what was learned."""
        (self.folder / "stop").touch()

    def asked_to_stop(self) -> bool:
        """Whether somebody asked it to end."""
        return (self.folder / "stop").exists()

    def write(self, **status: Any) -> None:
        """Change the status: whoever looks sees the old one or the new one."""
        path = self.folder / "status.json"
        temporary = path.with_name(f".status-{secrets.token_hex(4)}")
        temporary.write_text(json.dumps(self._written() | status | {"updated": time.time()}))
        os.replace(temporary, path)

    def unfinished(self) -> bool:
        """Whether it was stopped or failed where it can be taken up again."""
        status = self.status()
        return status.get("state") in ("stopped", "failed") and not status.get("diverged")

    def previews(self) -> list[Path]:
        """The pictures drawn on the way, the first first."""
        return sorted((self.folder / "preview").glob("*.jpg"))

    def version(self) -> str:
        """Changes whenever there is something new to see."""
        status = self.status()
        return f"{self.folder.name} {status.get('updated')} {status.get('state')}"

    def _written(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "status.json").read_text())
        except (OSError, ValueError):  # cleared away by another window
            return {}


class Runs:
    """The trainings of one data folder, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder, folder / "runs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".runs.lock", timeout=30)

    def latest(self) -> Run | None:
        """The training to show: one that goes on, or ended within a day."""
        runs = self._all()
        if not runs:
            return None
        status = runs[-1].status()
        recent = time.time() - status.get("updated", 0) < SHOWN_FOR
        return runs[-1] if status.get("state") in GOING or recent else None

    def going(self) -> Run | None:
        """The training under way, if there is one."""
        run = self.latest()
        return run if run and run.alive() else None

    @contextlib.contextmanager
    def prepared(self):
        """A new run's folder to put photos into; it starts when the block ends without error.

        Raises ValueError where another training goes on.
        """
        with self._lock:
            self._only_one()
            for old in self._all()[: -KEPT_RUNS + 1]:
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
        """Take up the latest training from its last checkpoint; ValueError where it cannot be."""
        with self._lock:
            self._only_one()
            run = self.latest()
            if run is None or not run.unfinished():
                raise ValueError("No training waits to be resumed; start a new one.")
            (run.folder / "stop").unlink(missing_ok=True)
            run.write(state="starting", message="")
            self._launch(run)
        return run

    def _only_one(self) -> None:
        if self.going():
            raise ValueError("A training is under way; wait until it ends, or stop it first.")

    def _launch(self, run: Run) -> None:
        """Start the worker: its own session, so that no terminal takes it down with the app."""
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
