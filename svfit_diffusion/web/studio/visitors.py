"""Visitors of a public app: each has a workspace in a folder of their own, which goes with them.

    visits/<random>/concepts, pictures   as of the user's data folder

A visitor's folder is made when it is first needed, and deleted when their page is closed, an hour
after they last did something, or when MAX_VISITS others did something since. Its name cannot be
guessed, since whoever knows the address of a picture can load it.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .cards import read_card
from .generation_jobs import GenerationJobs
from .history import History
from .library import Library
from .runs import Runs
from .shared_pipeline import SharedPipeline
from .workspace import Workspace

MAX_VISITS = 64  # visitors that are remembered
MAX_IDLE = 3_600.0  # seconds without a click until one is forgotten
MAX_BASIS = 1_000_000_000  # bytes of the basis of a file that a visitor adds
MAX_OWN_CONCEPTS = 4  # that a visitor may add
MAX_KEPT_PICTURES = 16  # of a visitor, the newest


@dataclass
class Visit:
    """What one visitor has. offered: names of the concepts that everybody has. seen: when."""

    folder: Path
    workspace: Workspace
    jobs: GenerationJobs
    offered: tuple[str, ...]
    seen: float = field(default=0.0)


class Visitors:
    """All visitors of a public app, by the page's session. Several threads may use it at once.

    folder: of their folders. concepts: files that everybody may use. clock: seconds.
    """

    def __init__(
        self,
        pipeline: SharedPipeline,
        folder: Path,
        concepts: Sequence[str | Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pipeline, self.folder = pipeline, folder
        self._concepts, self._clock, self._lock = tuple(concepts), clock, threading.Lock()
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self.offered = self._new_visit()  # what a page shows before its visitor did anything

    def of(self, session: str) -> Visit:
        """The visit of a session; a new one where it was forgotten, or never there."""
        with self._lock:
            visit = self._visits.pop(session, None) or self._new_visit()
            visit.seen = self._clock()
            self._visits[session] = visit
            while len(self._visits) > MAX_VISITS:
                self._end(next(iter(self._visits)))
        return visit

    def find(self, session: str) -> Visit:
        """The visit of a session, or what everybody is offered; nothing is made."""
        return self._visits.get(session) or self.offered

    def add(self, session: str, path: str | Path) -> str:
        """Add a concept file for one visitor and return its name; ValueError if it cannot be."""
        card = read_card(path)
        if self.pipeline.mismatch(card):
            raise ValueError(
                f"{card.name} was trained on {card.base!r}, but this page has "
                f"{self.pipeline.base!r} only; use it where you have its base."
            )
        if self.pipeline.basis_size(card) > MAX_BASIS:
            raise ValueError(
                f"{card.name} trains so many values that this page would compute for long; use it "
                "with svfit-diffusion on a machine of yours."
            )
        visit = self.of(session)
        library = visit.workspace.library
        if len(library.entries()) - len(visit.offered) >= MAX_OWN_CONCEPTS:
            raise ValueError(
                f"You have added {MAX_OWN_CONCEPTS} files, which is all that this page keeps; "
                "reload it to begin again."
            )
        return library.add(path)

    def forget(self, session: str) -> None:
        """Delete all that a visitor has; their job stops."""
        with self._lock:
            self._end(session)

    def forget_idle(self) -> None:
        """Delete what visitors have who did nothing for MAX_IDLE seconds."""
        with self._lock:
            old = self._clock() - MAX_IDLE
            for session in [key for key, visit in self._visits.items() if visit.seen < old]:
                self._end(session)

    def count(self) -> int:
        """How many visitors are remembered."""
        return len(self._visits)

    def _end(self, session: str) -> None:
        if visit := self._visits.pop(session, None):
            visit.jobs.stop(session)
            gone = visit.folder.with_name(f"{visit.folder.name}-gone")
            with contextlib.suppress(OSError):  # where a file in it is open, on Windows
                visit.folder.rename(gone)  # a job saving a picture now finds no folder for it
            for folder in (gone, visit.folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _new_visit(self) -> Visit:
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(parents=True, mode=0o700)
        library = Library(folder)
        names = tuple(library.add(path) for path in self._concepts)
        workspace = Workspace(self.pipeline, library, Runs(folder), History(folder), local=False)
        return Visit(folder, workspace, GenerationJobs(workspace), names)
