"""The Compare tab: a grid of pictures, with what varies along its columns and its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...generation import save_png
from ..studio import (
    AXES,
    COMPARE_PROMPT,
    MAX_ACTIVE_CONCEPTS,
    MAX_PROMPT,
    MAX_SEED,
    GenerationJobs,
    Grid,
    Workspace,
    check_prompts,
    new_file,
    parse_axis,
    pick_seed,
    servable_copy,
    strengths,
)
from . import render
from .events import (
    QUEUED,
    UNQUEUED,
    click_to_generate,
    click_to_stop,
    escape,
    go_and_stop,
    user_errors,
)

STANDARD, NOTHING = "as usual", "nothing"
USUAL = "as usual: the strengths, or the concepts where there are several."
ONE_ROW = "Not used where the columns are as usual."
EXAMPLES = {
    "strength": "0, 0.5, 1, 1.5",
    "seed": "0, 1, 2, 3",
    "steps": "10, 25, 50",
    "guidance": "1, 3, 6",
    "prompt": "a photo of {} on the beach | a photo of {} at night",
}


class CompareActions:
    """What the tab's events do."""

    def __init__(self, workspace: Workspace, jobs: GenerationJobs) -> None:
        self.workspace, self.jobs = workspace, jobs

    def compare(
        self,
        names: Sequence[str],
        prompt: str,
        seed: float,
        columns: str,
        column_values: str,
        rows: str,
        row_values: str,
        window: gr.Request,
    ) -> Iterator[tuple[Any, Any, str]]:
        """Generate the cells: the gallery, at the end the grid as a file, and the live view."""
        with user_errors():
            plan = self._plan(
                names, prompt, pick_seed(seed), (columns, column_values), (rows, row_values)
            )
            width = min(len(plan.columns.values), 8)
            for cells, sheet, progress in self.jobs.grid(window.session_hash, plan):
                gallery, file = gr.skip(), gr.skip()
                if cells:
                    shown = [(servable_copy(path), escape(text)) for path, text in cells]
                    gallery = gr.update(value=shown, columns=width, visible=True)
                if sheet is not None:
                    path = new_file(f"comparison-{plan.seed:010d}.png")
                    save_png(sheet, path)
                    file = gr.update(value=str(path), visible=True)
                yield gallery, file, render.progress(progress)

    def _plan(
        self,
        names: Sequence[str],
        prompt: str,
        seed: int,
        columns: tuple[str, str],
        rows: tuple[str, str],
    ) -> Grid:
        """The grid that the form says."""
        check_prompts(prompt, "")
        if columns[0] == STANDARD:
            return strengths(self.jobs.cards(names), prompt, seed, {})
        cards = self.jobs.cards(names) if names else []
        x, y = (None if a == NOTHING else parse_axis(a, text, names) for a, text in (columns, rows))
        if y and x.name == y.name:
            raise ValueError(f"Columns and rows both vary the {x.name}; choose another for one.")
        if "concept" in (x.name, y and y.name) and not cards:
            raise ValueError("Choose the concepts that the grid is to show first.")
        return Grid(x, y, cards, prompt, seed)

    def parameters(self, gallery: list | None, event: gr.SelectData) -> Any:
        """The parameters of the cell that was clicked."""
        path = gallery[event.index][0] if gallery and event.index < len(gallery) else ""
        with user_errors():
            found = self.workspace.history.get(Path(path).name).parameters
        return gr.update(value=found.to_infotext() if found else "", visible=True)

    def stop(self, window: gr.Request) -> None:
        """Stop this window's job."""
        self.jobs.stop(window.session_hash)

    def choices(self, selected: Sequence[str] | None) -> Any:
        """The concepts that fit the base; those selected stay so, by default the newest is."""
        fitting = [(f"{e.card.trigger} ({e.name})", e.name) for e in self.workspace.fitting()]
        names = [name for _, name in fitting]
        kept = [name for name in selected or [] if name in names]
        return gr.update(choices=fitting, value=kept or names[:1])


def build_compare(workspace: Workspace, jobs: GenerationJobs, version: gr.Textbox) -> list[Any]:
    """Lay out the tab and connect it.

    Returns the text of the cell that was clicked, and a button to use its settings again.
    """
    actions = CompareActions(workspace, jobs)
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            names, prompt, seed = _what()
            axes = [*_axis("Columns", STANDARD, USUAL), *_axis("Rows", NOTHING, ONE_ROW)]
            go, stop = go_and_stop("Compare")
        with gr.Column(scale=7, min_width=320, elem_classes="output-column"):
            live = gr.HTML(
                render.empty("Nothing to compare yet", "Choose concepts, then press Compare.")
            )
            cells, text, reuse, file = _result()
    inputs = [names, prompt, seed, *axes]
    event = click_to_generate(go, stop, actions.compare, inputs, [cells, file, live], live)
    click_to_stop(stop, go, actions.stop, event, live)
    cells.select(actions.parameters, cells, text, **QUEUED).then(
        lambda: gr.update(visible=True), None, reuse, **UNQUEUED
    )
    version.change(actions.choices, names, names, **UNQUEUED)
    return [text, reuse]


def _what() -> tuple[gr.Dropdown, gr.Textbox, gr.Number]:
    """Concepts, prompt and seed."""
    names = gr.Dropdown(
        [],
        label="Concepts",
        info=f"One, or 2 to {MAX_ACTIVE_CONCEPTS} side by side.",
        multiselect=True,
        max_choices=MAX_ACTIVE_CONCEPTS,
        elem_id="compared",
    )
    prompt = gr.Textbox(
        COMPARE_PROMPT,
        label="Prompt",
        info="{} stands for each concept's words.",
        lines=2,
        max_length=MAX_PROMPT,
    )
    return (
        names,
        prompt,
        gr.Number(
            0,
            label="Seed",
            info="Of every cell.",
            precision=0,
            minimum=0,
            maximum=MAX_SEED,
        ),
    )


def _axis(label: str, first: str, info: str) -> tuple[gr.Dropdown, gr.Textbox]:
    """What varies along an axis, and its values."""
    with gr.Row(elem_classes="controls"):
        axis = gr.Dropdown(
            [first, *AXES],
            value=first,
            label=f"{label} vary",
            info=info,
            min_width=130,
            scale=1,
        )
        values = gr.Textbox(
            "",
            label=f"Values of the {label.lower()}",
            info="With commas between them; prompts with |.",
            visible=False,
            min_width=160,
            scale=2,
        )

    def example(name: str) -> Any:
        return gr.update(value=EXAMPLES.get(name, ""), visible=name in EXAMPLES)

    axis.input(example, axis, values, **UNQUEUED)
    return axis, values


def _result() -> tuple[gr.Gallery, gr.Textbox, gr.Button, gr.File]:
    """The cells, what made the one that was clicked, and the grid as a file."""
    cells = gr.Gallery(
        label="Comparison",
        show_label=False,
        format="png",
        object_fit="contain",
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id="comparison",
        visible=False,
    )
    text = gr.Textbox(label="Parameters", lines=3, visible=False, buttons=["copy"])
    reuse = gr.Button("Use this cell under Generate", size="sm", visible=False, elem_id="use-cell")
    file = gr.File(label="The whole grid", visible=False, interactive=False, elem_id="grid-file")
    return cells, text, reuse, file
