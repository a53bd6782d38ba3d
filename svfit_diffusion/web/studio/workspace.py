"""What all tabs and endpoints share: the pipeline, the library and the trainings."""

from __future__ import annotations

from dataclasses import dataclass

from .library import Library
from .runs import Runs
from .shared_pipeline import SharedPipeline


@dataclass(frozen=True)
class Workspace:
    """The app's state. local: only users of this machine have access, so they may name paths."""

    pipeline: SharedPipeline
    library: Library
    runs: Runs
    local: bool = True

    def version(self) -> str:
        """Changes whenever the library or the base does."""
        return f"{self.pipeline.base} {self.library.version()}"

    def example_prompt(self) -> str:
        """A prompt to start from, with the trigger of a concept that fits the base."""
        cards = (e.card for e in self.library.entries() if not self.pipeline.mismatch(e.card))
        card = next(cards, None)
        return f"a photo of {card.trigger if card else 'a dog'} on the beach"

    def check_idle(self) -> None:
        """ValueError while a training runs: it needs the memory of another base."""
        if self.runs.active():
            raise ValueError("A training is running; choose another base when it has ended.")

    def switch_base(self, source: str) -> None:
        """Load another base for all windows; ValueError, and the one before stays."""
        self.check_idle()
        self.pipeline.switch_base(source)
