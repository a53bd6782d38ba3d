"""How the page's events are queued, and how they show warnings and errors.

Only an event that goes through the queue can show a warning or an error.
"""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ...concept import printable
from ..studio import MAX_PICTURES, Progress
from . import render

# Keyword arguments of the page's events.
UNQUEUED = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
QUEUED = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
CHECKING = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": 2}
ONE_AT_A_TIME = {"concurrency_id": "pipeline", "concurrency_limit": 1}
GENERATING = {"api_visibility": "private", "show_progress": "minimal", **ONE_AT_A_TIME}

STOP, STOPPING = "Stop", "Stopping"
WAITING = Progress("Waiting for its turn")


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
        stop = gr.Button(STOP, variant="stop", elem_classes="stop", visible=False)
    return go, stop


def _buttons(running: bool) -> tuple[Any, Any]:
    """The main button and Stop, one of which is seen."""
    stop = {"value": STOP} if running else {}  # what it says is read once more when the job ended
    return gr.update(visible=not running), gr.update(visible=running, **stop)


def click_to_generate(
    go: gr.Button,
    stop: gr.Button,
    function: Callable,
    inputs: Any,
    outputs: Sequence[Any],
    live: gr.HTML,
    count: gr.Slider | None = None,
) -> Dependency:
    """A click that generates: the browser says at once that it waits, and Stop takes its place.

    count: how many pictures it makes, each of which gets a tile in the live view. The function
    itself cannot say so before its turn comes; shortcuts.js adds the place in the queue, which only
    the browser knows. The browser handles a button's clicks in the order of their registration,
    each after the one before has returned. A failure clears the live view; earlier results stay.
    Gradio calls `then` after no failure, so each end is named.
    """
    views = [render.progress(WAITING, [None] * n) for n in range(MAX_PICTURES + 1)]
    tiles = f"{json.dumps(views)}.at(Math.min(Math.max(n || 0, 0), {MAX_PICTURES}))"
    script = f"(n) => [{tiles}, ...{json.dumps(_buttons(True))}]"
    go.click(None, count, [live, go, stop], js=script, **UNQUEUED)
    event = go.click(function, inputs, outputs, show_progress_on=live, **GENERATING)
    for ended, keep in ((event.success, True), (event.failure, False)):
        _when_ended(ended, go, stop, live, keep)
    return event


def click_to_stop(
    stop: gr.Button, go: gr.Button, function: Callable, event: Dependency, live: gr.HTML
) -> None:
    """A click that stops the event's job, answered at once.

    The function stops a job that runs. One that waits is cancelled after that, since by then the
    server has answered the request for it, without which it could not be named.
    """
    stop.click(None, None, stop, js=f"() => {json.dumps(STOPPING)}", **UNQUEUED)
    stop.click(function, **UNQUEUED)
    cancelled = stop.click(None, cancels=[event], **UNQUEUED)
    _when_ended(cancelled.then, go, stop, live, keep=True)


def _when_ended(ended: Callable, go: gr.Button, stop: gr.Button, live: gr.HTML, keep: bool) -> None:
    """The main button is back; the live view says so if Stop was pressed. keep: else it stays.

    All of it in the browser, so that a busy server cannot change the order.
    """
    stopped, buttons = json.dumps(render.note("Stopped.")), json.dumps(_buttons(False))
    shown = f'stop === "{STOPPING}" ? {stopped} : {"live" if keep else json.dumps("")}'
    script = f"(stop, live) => [{shown}, ...{buttons}]"
    ended(None, [stop, live], [live, go, stop], js=script, **UNQUEUED)
