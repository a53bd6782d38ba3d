"""What all tabs share: the studio, the library, the trainings, and how mistakes are told."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from ...concept import printable
from .library import Library
from .runs import Runs
from .shared_pipeline import Studio

SLOTS = 4  # concepts at once
MAX_PICTURES, MAX_STEPS, MAX_GUIDANCE, MAX_STRENGTH = 8, 100, 20, 1.5
MAX_SEED, MAX_SIZE = 2**32 - 1, 2_048  # of a picture's side: px
MAX_PROMPT = 1_000  # characters

# Options of the page's own events. Only what went through the queue can show a warning.
QUICK = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
QUEUED = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
DRAWING = {
    "api_visibility": "private",
    "show_progress": "minimal",
    "concurrency_id": "draw",
    "concurrency_limit": 1,
}


@dataclass(frozen=True)
class Workspace:
    """The app behind its pages. local: only this machine's user comes in, and may name paths."""

    studio: Studio
    library: Library
    runs: Runs
    local: bool = True

    def version(self) -> str:
        """Changes whenever the library or the base does."""
        return f"{self.studio.base} {self.library.version()}"

    def prompt(self) -> str:
        """A prompt to start from, with the trigger of a concept that fits the base."""
        cards = (e.card for e in self.library.entries() if not self.studio.misfit(e.card))
        card = next(cards, None)
        return f"a photo of {card.trigger if card else 'a dog'} on the beach"


def signal() -> gr.Textbox:
    """A text that nobody sees, whose change others listen to.

    Not a State: its changes are noticed only after events that went through the queue.
    """
    return gr.Textbox("", visible="hidden")


def escaped(text: object) -> str:
    """A message for the page, where messages are HTML: a stranger's text stays text."""
    return html.escape(printable(str(text)), quote=False)


def warn(sentences: list[str]) -> None:
    """Show each sentence in a corner of the page."""
    for sentence in sentences:
        gr.Warning(escaped(sentence))


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Show a user's mistake as one sentence."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(escaped(error), print_exception=False) from error
