"""What all tabs and endpoints share: the pipeline, the library, the trainings, the pictures."""

from __future__ import annotations

from dataclasses import dataclass

from .history import History
from .library import Entry, Library
from .runs import Runs
from .shared_pipeline import SharedPipeline


@dataclass(frozen=True)
class Workspace:
    """The app's state. local: only users of this machine have access, so they may name paths."""

    pipeline: SharedPipeline
    library: Library
    runs: Runs
    history: History
    local: bool = True

    def version(self) -> str:
        """Changes whenever the library or the base does."""
        return f"{self.pipeline.base} {self.library.version()}"

    def fitting(self) -> list[Entry]:
        """The library's concepts that fit the base in use."""
        return [e for e in self.library.entries() if not self.pipeline.mismatch(e.card)]

    def example_prompt(self) -> str:
        """A prompt to start from, with the trigger of a concept that fits the base."""
        entry = next(iter(self.fitting()), None)
        return f"a photo of {entry.card.trigger if entry else 'a dog'} on the beach"

    def check_idle(self) -> None:
        """ValueError while a training runs: it needs the memory of another base."""
        if self.runs.active():
            raise ValueError("A training is running; choose another base when it has ended.")

    def switch_base(self, source: str) -> None:
        """Load another base for all windows; ValueError, and the one before stays."""
        self.check_idle()
        self.pipeline.switch_base(source)
