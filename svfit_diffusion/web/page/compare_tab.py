"""The Compare tab: one concept over its strengths, or several side by side, as a labelled grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from ...generation import save_png
from ..studio import (
    COMPARE_PROMPT,
    MAX_ACTIVE_CONCEPTS,
    MAX_PROMPT,
    MAX_SEED,
    GenerationJobs,
    Workspace,
    new_file,
    pick_seed,
)
from . import render
from .events import UNQUEUED, click_to_generate, click_to_stop, go_and_stop, user_errors


class CompareActions:
    """What the tab's events do."""

    def __init__(self, workspace: Workspace, jobs: GenerationJobs) -> None:
        self.workspace, self.jobs = workspace, jobs

    def compare(
        self, names: Sequence[str], prompt: str, seed: float, window: gr.Request
    ) -> Iterator[tuple[Any, str]]:
        """Generate the grid: its file at the end, and the live view."""
        with user_errors():
            seed = pick_seed(seed)
            for grid, progress in self.jobs.compare(window.session_hash, names, prompt, seed, {}):
                if grid is None:
                    yield gr.skip(), render.progress(progress)
                    continue
                path = new_file(f"comparison-{seed:010d}.png")
                save_png(grid, path)
                yield str(path), render.progress(progress)

    def stop(self, window: gr.Request) -> None:
        """Stop this window's job."""
        self.jobs.stop(window.session_hash)

    def choices(self, selected: Sequence[str] | None) -> Any:
        """The concepts that fit the base; those selected stay so, by default the newest is."""
        fitting = [
            (f"{entry.card.trigger} ({entry.name})", entry.name)
            for entry in self.workspace.library.entries()
            if not self.workspace.pipeline.mismatch(entry.card)
        ]
        names = [name for _, name in fitting]
        kept = [name for name in selected or [] if name in names]
        return gr.update(choices=fitting, value=kept or names[:1])


def build_compare(workspace: Workspace, jobs: GenerationJobs, version: gr.Textbox) -> None:
    """Lay out the tab and connect it."""
    actions = CompareActions(workspace, jobs)
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            names = gr.Dropdown(
                [],
                label="Concepts",
                info="One: seven strengths from 0 to 1.5. "
                f"Two to {MAX_ACTIVE_CONCEPTS}: side by side.",
                multiselect=True,
                max_choices=MAX_ACTIVE_CONCEPTS,
                elem_id="compared",
            )
            prompt = gr.Textbox(
                COMPARE_PROMPT,
                label="Prompt",
                info="{} stands for each concept's trigger.",
                lines=2,
                max_length=MAX_PROMPT,
            )
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
            go, stop = go_and_stop("Compare")
        with gr.Column(scale=7, min_width=320, elem_classes="output-column"):
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
    inputs = [names, prompt, seed]
    go.click(lambda: gr.update(visible=True), None, grid, **UNQUEUED)
    event = click_to_generate(go, stop, actions.compare, inputs, [grid, live], live)
    click_to_stop(stop, go, actions.stop, event, live)
    version.change(actions.choices, names, names, **UNQUEUED)
