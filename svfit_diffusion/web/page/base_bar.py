"""The base in use, in one sentence, and a form for another: described before it is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...families import TOYBOX
from ..studio import KNOWN_BASES, OBJECTS, SUGGESTED, Suggested, Workspace, describe_base
from . import render
from .events import GENERATING, UNQUEUED, user_errors

TOYBOX_TITLE = "Toybox: toy-like objects on simple backgrounds, at {} px"
TOYBOX_TEXT = (
    "It cannot draw real photos: it is a demo that needs no download. For photos of your own, use "
    f"another base. It knows such things as: {', '.join(OBJECTS)}."
)
OTHER_TEXT = "Concepts that are trained on it fit it alone."


def base_in_use(workspace: Workspace) -> str:
    """The base in use, with the newest picture of it, as HTML."""
    pipeline, size = workspace.pipeline, workspace.pipeline.defaults.width
    toybox = pipeline.is_toybox
    title = TOYBOX_TITLE.format(size) if toybox else f"{pipeline.base}, at {size} px"
    made = (found.path for found in workspace.history.last() if found.base == pipeline.base)
    return render.base_card(title, TOYBOX_TEXT if toybox else OTHER_TEXT, next(made, None))


def own_settings(workspace: Workspace) -> list[float]:
    """Steps, guidance, width and height of the base in use."""
    start = workspace.pipeline.defaults
    return [start.steps, start.guidance, start.width, start.height]


class BaseActions:
    """What the bar's events do."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def describe(self, source: str) -> tuple[str, Any]:
        """A description of a base, and the button to use it; or what is wrong with it."""
        try:
            base = describe_base(source, self.workspace.local)
        except ValueError as error:
            return render.note(str(error)), gr.update(visible=False)
        return render.note(base.sentence()), gr.update(visible=True)

    def switch(self, source: str) -> Iterator[tuple[Any, ...]]:
        """Load another base: version, sentence about the base in use, description."""
        with user_errors():
            self.workspace.check_idle()
            source = describe_base(source, self.workspace.local).source
            loading = render.note("Loading; the first time it is downloaded.")
            yield gr.skip(), gr.skip(), loading
            self.workspace.switch_base(source)
        in_use = render.note("This base is in use now.")
        yield self.workspace.version(), base_in_use(self.workspace), in_use

    def defaults(self) -> list[float]:
        """The base's own settings."""
        return own_settings(self.workspace)


def build_base_bar(workspace: Workspace, version: gr.Textbox, settings: list[gr.Slider]) -> gr.HTML:
    """Lay out the bar and connect it; returns the sentence.

    settings: sliders of steps, guidance, width, height, which take the new base's defaults.
    """
    actions = BaseActions(workspace)
    sentence = gr.HTML(base_in_use(workspace), elem_id="base")
    paths = "" if not workspace.local else ", a diffusers folder, or one .safetensors file"
    with gr.Accordion("Use another base", open=False, elem_id="bases"):
        with gr.Row():
            source = gr.Textbox(
                TOYBOX,
                label="Base",
                info=f"toybox, a Hub id such as owner/name{paths}",
                scale=5,
                min_width=280,
                max_length=500,
            )
            look_up = gr.Button("Look it up", scale=1, min_width=120)
        with gr.Row(elem_classes="cards"):
            suggested = [(base, _suggestion(base)) for base in SUGGESTED]
        known = gr.Dropdown(
            [*KNOWN_BASES.items()],
            value=TOYBOX,
            label="Known bases",
            info="of every family that concepts can be trained on; another form of one works too",
        )
        description = gr.HTML()
        use = gr.Button("Use this base", variant="primary", visible=False)
    found, progress = [description, use], {"show_progress_on": description}
    for event in (look_up.click, source.submit):
        event(actions.describe, source, found, api_visibility="private", **progress)
    for base, button in suggested:
        button.click(lambda base=base: base.source, None, source, **UNQUEUED).then(
            actions.describe, source, found, api_visibility="private", **progress
        )
    known.input(lambda name: name, known, source, **UNQUEUED).then(
        actions.describe, source, found, api_visibility="private", **progress
    )
    source.input(lambda: ("", gr.update(visible=False)), None, found, **UNQUEUED)
    switched = [version, sentence, description]
    use.click(actions.switch, source, switched, **progress, **GENERATING).success(
        actions.defaults, None, settings, **UNQUEUED
    )
    return sentence


def _suggestion(base: Suggested) -> gr.Button:
    """A card of a base, with the button that looks it up."""
    with gr.Column(elem_classes="card", min_width=210):
        gr.HTML(render.suggestion(base.name, base.sentence()))
        return gr.Button(f"Choose {base.name}", size="sm")
