"""The base in use, in one sentence, and another one: described before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...families import TOYBOX
from ..studio import DRAWING, QUICK, Workspace, describe, user_errors
from . import render


def describe_base(desk: Workspace) -> str:
    """One sentence on the base in use, as HTML."""
    size = desk.studio.defaults.width
    if desk.studio.is_toybox:
        said = (
            f"This is Toybox, a demo world of toy-like objects at {size} px; it came with the "
            "program, so nothing is downloaded."
        )
    else:
        said = f"The base in use is {desk.studio.base}, at {size} px."
    return f'<p class="world">{render.text(said)}</p>'


def build_base(desk: Workspace, version: gr.Textbox, settings: list[gr.Slider]) -> gr.HTML:
    """Lay out the bar and connect it. settings: sliders of steps, guidance, width, height."""

    def look_up(source: str) -> tuple[str, Any]:
        try:
            base = describe(source, desk.local)
        except ValueError as error:
            return render.note(str(error)), gr.update(visible=False)
        return render.note(base.sentence()), gr.update(visible=True)

    def use(source: str) -> Iterator[tuple[Any, ...]]:
        skip = gr.skip()
        with user_errors():
            if desk.runs.going():
                raise ValueError("A training is under way; choose another base when it has ended.")
            source = describe(source, desk.local).source
            yield skip, skip, render.note("Loading; a first time it is downloaded."), skip
            desk.studio.use(source)
        yield desk.version(), describe_base(desk), render.note("This base is in use now."), skip

    def defaults() -> list[Any]:
        start = desk.studio.defaults
        return [
            gr.update(value=v) for v in (start.steps, start.guidance, start.width, start.height)
        ]

    said = gr.HTML(describe_base(desk), elem_id="world")
    where = (
        "a Hub id such as owner/name"
        if not desk.local
        else ("a Hub id such as owner/name, a diffusers folder, or one .safetensors file")
    )
    with gr.Accordion("Use another base", open=False, elem_id="bases"):
        with gr.Row():
            source = gr.Textbox(
                TOYBOX,
                label="Base",
                info=f"toybox, {where}",
                scale=5,
                min_width=280,
                max_length=500,
            )
            look = gr.Button("Look it up", scale=1, min_width=120)
        facts = gr.HTML()
        go = gr.Button("Use this base", variant="primary", visible=False)
    look.click(look_up, source, [facts, go], api_visibility="private", show_progress_on=facts)
    source.submit(look_up, source, [facts, go], api_visibility="private", show_progress_on=facts)
    source.input(
        lambda: ("", gr.update(visible=False)),
        None,
        [facts, go],
        **QUICK,
    )
    go.click(
        use,
        source,
        [version, said, facts, go],
        show_progress_on=facts,
        **DRAWING,
    ).success(defaults, None, settings, **QUICK)
    return said
