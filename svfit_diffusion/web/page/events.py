"""How the page's events are queued, and how they show warnings and errors.

Only an event that goes through the queue can show a warning or an error.
"""

from __future__ import annotations

import contextlib
import html
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ...concept import printable
from . import render

# Keyword arguments of the page's events.
UNQUEUED = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
QUEUED = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
CHECKING = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": 2}
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


def go_and_stop(label: str) -> tuple[gr.Button, gr.Button]:
    """The main button, and the one in its place while its job runs."""
    with gr.Row(elem_classes="actions"):
        go = gr.Button(label, variant="primary", elem_classes="go")
        stop = gr.Button("Stop", variant="stop", elem_classes="stop", visible=False)
    return go, stop


def _buttons(running: bool) -> tuple[Any, Any]:
    """The main button and Stop, one of which is seen."""
    return gr.update(visible=not running), gr.update(visible=running, value="Stop")


def click_to_generate(
    go: gr.Button,
    stop: gr.Button,
    function: Callable,
    inputs: Any,
    outputs: Sequence[Any],
    live: gr.HTML,
) -> Dependency:
    """A click that generates: at once the live view says that it waits, and Stop takes its place.

    The function itself cannot say so before its turn comes. The browser handles a button's clicks
    in the order of their registration, each after the one before has returned. A failure clears the
    live view; earlier results stay.
    """
    waiting = json.dumps([render.note("Waiting for its turn")])
    go.click(None, None, live, js=f"() => {waiting}", **UNQUEUED)
    go.click(lambda: _buttons(True), None, [go, stop], **UNQUEUED)
    event = go.click(function, inputs, outputs, show_progress_on=live, **GENERATING)
    event.failure(lambda: "", None, live, **UNQUEUED)
    event.then(lambda: _buttons(False), None, [go, stop], **UNQUEUED)
    return event


def click_to_stop(
    stop: gr.Button, go: gr.Button, function: Callable, event: Dependency, live: gr.HTML
) -> None:
    """A click that stops the event's job, answered at once."""
    stop.click(lambda: gr.update(value="Stopping"), None, stop, **UNQUEUED)
    stopping = stop.click(function, cancels=[event], **UNQUEUED)
    stopping.then(stopped, None, live, **UNQUEUED).then(
        lambda: _buttons(False), None, [go, stop], **UNQUEUED
    )


def stopped() -> str:
    """The live view after Stop, once the last update of the job has arrived."""
    time.sleep(0.5)
    return render.note("Stopped.")
