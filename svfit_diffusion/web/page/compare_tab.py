"""The Compare tab: one concept over its strengths, or several side by side, as a labelled grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...generation import save_png
from ..studio import (
    DRAWING,
    MAX_PROMPT,
    MAX_SEED,
    QUICK,
    SLOTS,
    Drawing,
    Workspace,
    chosen_seed,
    fresh_file,
    user_errors,
)
from . import render

PROMPT = "a photo of {} on the beach"


def build_compare(desk: Workspace, drawing: Drawing, version: gr.Textbox) -> gr.Dropdown:
    """Lay out the tab and connect it; returns the choice of concepts."""

    def compare(
        names: list[str], prompt: str, seed: float, window: gr.Request
    ) -> Iterator[tuple[Any, str]]:
        with user_errors():
            yield None, render.note("Your turn comes")
            seed = chosen_seed(seed)
            for picture, live in drawing.compare(window.session_hash, names, prompt, seed, {}):
                if picture is None:
                    yield gr.skip(), live
                    continue
                path = fresh_file(f"comparison-{seed:010d}.png")
                save_png(picture, path)
                yield str(path), live

    def stop(window: gr.Request) -> None:
        drawing.stop(window.session_hash)

    def choices(names: list[str]) -> Any:
        fitting = [
            (f"{e.card.trigger} ({e.name})", e.name)
            for e in desk.library.entries()
            if not desk.studio.misfit(e.card)
        ]
        held = [name for name in names or [] if name in {n for _, n in fitting}]
        return gr.update(choices=fitting, value=held or [n for _, n in fitting[:1]])

    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            names = gr.Dropdown(
                [],
                label="Concepts",
                info=f"One: seven strengths from 0 to 1.5. Two to {SLOTS}: against one another.",
                multiselect=True,
                max_choices=SLOTS,
                elem_id="compared",
            )
            prompt = gr.Textbox(
                PROMPT,
                label="Prompt",
                info="{} stands for each concept's trigger.",
                lines=2,
                max_length=MAX_PROMPT,
            )
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
            with gr.Row(elem_classes="actions"):
                go = gr.Button("Compare", variant="primary", scale=4, elem_classes="go")
                halt = gr.Button("Stop", scale=1, min_width=90)
        with gr.Column(scale=7, min_width=320, elem_classes="made"):
            live = gr.HTML(
                render.empty("Nothing to compare yet", "Choose concepts, then press Compare.")
            )
            grid = gr.Image(
                label="Comparison",
                show_label=False,
                type="filepath",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id="comparison",
                visible="hidden",
            )
    event = go.click(
        compare,
        [names, prompt, seed],
        [grid, live],
        show_progress_on=live,
        **DRAWING,
    )
    go.click(lambda: gr.update(visible=True), None, grid, **QUICK)
    halt.click(stop, cancels=[event], **QUICK).then(drawing.stopped, None, live, **QUICK)
    version.change(choices, names, names, **QUICK)
    return names
