"""How the page's events are queued, and how they show warnings and errors.

Only an event that goes through the queue can show a warning or an error.
"""

from __future__ import annotations

import contextlib
import html
import json
import time
from collections.abc import Iterator, Sequence

import gradio as gr
from gradio.events import Dependency

from ...concept import printable
from . import render

# Keyword arguments of the page's events.
UNQUEUED = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
QUEUED = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
ONE_AT_A_TIME = {"concurrency_id": "pipeline", "concurrency_limit": 1}
GENERATING = {"api_visibility": "private", "show_progress": "minimal", **ONE_AT_A_TIME}


def hidden_textbox() -> gr.Textbox:
    """An invisible text whose change triggers events.

    Not a State: Gradio notices a State's change only after events that went through the queue.
    """
    return gr.Textbox("", visible="hidden")


def escape(text: object) -> str:
    """A message for the page, where messages are HTML: text from a file stays text."""
    return html.escape(printable(str(text)), quote=False)


def warn(sentences: Sequence[str]) -> None:
    """Show each sentence in a corner of the page."""
    for sentence in sentences:
        gr.Warning(escape(sentence))


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Show a ValueError, which is a user's mistake, as one sentence on the page."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(escape(error), print_exception=False) from error


def show_waiting(button: gr.Button, live: gr.HTML, event: Dependency) -> None:
    """Say in the live view, at once, that a click was heard; clear it if its event fails.

    Before the event's turn comes, its own function cannot say anything.
    """
    waiting = json.dumps(render.note("Waiting for its turn"))
    button.click(None, None, live, js=f"() => {waiting}", **UNQUEUED)
    event.failure(lambda: "", None, live, **UNQUEUED)


def stopped() -> str:
    """The live view after Stop, once the last update of the job has arrived."""
    time.sleep(0.5)
    return render.note("Stopped.")
