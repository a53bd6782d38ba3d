"""The Generate tab: a form and the library's concepts on the left, pictures on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from ..studio import (
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    MAX_STRENGTH,
    Entry,
    GenerationJobs,
    Workspace,
)
from . import render
from .events import QUEUED, UNQUEUED, click_to_generate, escape, hidden_textbox, stopped
from .generate_actions import GenerateActions
from .sliders import clamped_slider


@dataclass
class GenerateTab:
    """The components that other parts of the page use. chosen: name -> strength."""

    prompt: gr.Textbox
    chosen: gr.State
    settings: list[gr.Slider]


def build_generate(
    workspace: Workspace, jobs: GenerationJobs, version: gr.Textbox, names: Sequence[str]
) -> GenerateTab:
    """Lay out the tab and connect it. names: concepts that are in use from the start."""
    actions = GenerateActions(workspace, jobs)
    chosen, refilled = gr.State(dict.fromkeys(names, 1.0)), hidden_textbox()
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            prompt, negative = _prompts(workspace)
            with gr.Row(elem_classes="actions"):
                go = gr.Button("Generate", variant="primary", scale=4, elem_classes="go")
                stop = gr.Button("Stop", scale=1, min_width=90)
            _concepts(actions, version, chosen, refilled)
            num, new_seed, seed = _number_and_seed()
            settings = _settings(workspace)
            file = gr.File(
                label="Drop a PNG made here to use its settings again",
                file_types=[".png"],
                height=140,
                elem_id="reuse-drop",
            )
        with gr.Column(scale=6, min_width=320, elem_classes="output-column"):
            live, gallery = gr.HTML(elem_id="live"), _gallery()
            with gr.Group(visible=False) as details:
                text = gr.Textbox(
                    label="Parameters", lines=4, max_length=20_000, buttons=["copy"], elem_id="text"
                )
                reuse = gr.Button("Reuse these", elem_id="reuse")
    inputs = [chosen, prompt, negative, num, new_seed, seed, *settings]
    outputs = [gallery, live, seed]
    event = click_to_generate(go, actions.generate, inputs, outputs, live)
    stop.click(actions.stop, cancels=[event], **UNQUEUED).then(stopped, None, live, **UNQUEUED)
    gallery.select(actions.show_parameters, gallery, [text, details], **UNQUEUED)
    form = [chosen, prompt, negative, new_seed, seed, *settings, refilled]
    file.upload(actions.read_file, file, [text, details], **QUEUED).then(
        actions.fill, text, form, **QUEUED
    )
    reuse.click(actions.fill, text, form, **QUEUED)
    return GenerateTab(prompt, chosen, settings)


def _prompts(workspace: Workspace) -> tuple[gr.Textbox, gr.Textbox]:
    prompt = gr.Textbox(
        label="Prompt",
        placeholder=workspace.example_prompt(),
        lines=2,
        max_length=MAX_PROMPT,
        elem_id="prompt",
    )
    negative = gr.Textbox(
        value="",
        label="Negative prompt",
        placeholder="what not to generate",
        lines=1,
        max_length=MAX_PROMPT,
    )
    return prompt, negative


def _concepts(
    actions: GenerateActions, version: gr.Textbox, chosen: gr.State, refilled: gr.Textbox
) -> None:
    """The library's concepts, rendered again when the library, the base or the choice changes."""

    @gr.render(
        [chosen],
        triggers=[version.change, refilled.change],
        show_progress="hidden",
        concurrency_limit=None,
    )
    def concepts(strengths: dict) -> None:
        entries = actions.workspace.library.entries()
        if not entries:
            gr.HTML(render.empty("No concepts yet", "Train one, or add a file under Share."))
            return
        with gr.Row(elem_classes="cards"):
            for entry in entries:
                mismatch = actions.workspace.pipeline.mismatch(entry.card)
                with gr.Column(elem_classes="card", min_width=220):
                    gr.HTML(render.concept(entry, mismatch))
                    if not mismatch:
                        _strength(actions, entry, strengths, chosen)


def _strength(actions: GenerateActions, entry: Entry, strengths: dict, chosen: gr.State) -> None:
    """Whether a concept is in use, and how strongly."""
    with gr.Row(elem_classes="controls"):
        on = gr.Checkbox(
            entry.name in strengths,
            label="Use",
            min_width=70,
            scale=1,
            container=False,
            interactive=True,
        )
        strength = clamped_slider(
            0,
            MAX_STRENGTH,
            strengths.get(entry.name, 1.0),
            step=0.05,
            label=f"Strength of {escape(entry.name)}",
            scale=3,
            min_width=120,
            buttons=[],
            interactive=True,
        )

    def choose(used: bool, value: float, now: dict) -> dict:
        return actions.choose(entry.name, used, value, now)

    for event in (on.input, strength.change):
        event(choose, [on, strength, chosen], chosen, **QUEUED)


def _number_and_seed() -> tuple[gr.Slider, gr.Checkbox, gr.Number]:
    """The number of pictures, whether each job has a new seed, the seed."""
    num = clamped_slider(1, MAX_PICTURES, 2, step=1, label="Pictures", buttons=[])
    with gr.Row(elem_classes="controls"):
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=140, elem_id="seed"
        )
        new_seed = gr.Checkbox(True, label="New seed each time", min_width=140)
    return num, new_seed, seed


def _settings(workspace: Workspace) -> list[gr.Slider]:
    """Steps, guidance, width, height."""
    start = workspace.pipeline.defaults
    with gr.Accordion("Steps, guidance, size", open=False):
        with gr.Row():
            steps = clamped_slider(1, MAX_STEPS, start.steps, step=1, label="Steps", buttons=[])
            guidance = clamped_slider(
                0, MAX_GUIDANCE, start.guidance, step=0.1, label="Guidance", buttons=[]
            )
        with gr.Row():
            width, height = (
                clamped_slider(8, MAX_SIZE, value, step=8, label=f"{name}, px", buttons=[])
                for name, value in (("Width", start.width), ("Height", start.height))
            )
    return [steps, guidance, width, height]


def _gallery() -> gr.Gallery:
    return gr.Gallery(
        label="Pictures",
        show_label=False,  # it would cover part of the first picture
        elem_id="pictures",
        format="png",  # the default, webp, would lose the parameters
        columns=2,
        object_fit="contain",
        interactive=False,
        buttons=["download", "fullscreen"],
    )
