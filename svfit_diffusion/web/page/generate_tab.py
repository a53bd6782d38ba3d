"""The Generate tab: a form and the library's concepts on the left, pictures on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..studio import (
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    SCENES,
    GenerationJobs,
    Workspace,
    with_scene,
)
from .concepts_panel import ConceptsPanel, build_concepts
from .events import QUEUED, UNQUEUED, click_to_generate, click_to_stop, go_and_stop, hidden_textbox
from .generate_actions import GenerateActions
from .history_panel import build_history
from .sliders import clamped_slider

CLICK_GENERATE = "() => { setTimeout(() => svfitPress(), 300); return [true]; }"


@dataclass
class GenerateTab:
    """What other parts of the page use. fields: all of the form but concepts.

    fill: a function of a picture's parameters, whose values are those of `filled`.
    """

    prompt: gr.Textbox
    concepts: ConceptsPanel
    settings: list[gr.Slider]
    fields: list[Any]
    fill: Callable
    filled: list[Any]


@dataclass
class Details:
    """What was clicked: the name of a picture of the history, its parameters, its buttons."""

    group: gr.Group
    name: gr.Textbox
    text: gr.Textbox
    reuse: gr.Button
    vary: gr.Button
    delete: gr.Button

    @property
    def shown(self) -> list[Any]:
        """What shows a picture that was clicked."""
        return [self.name, self.text, self.group]


def build_generate(
    workspace: Workspace,
    jobs: GenerationJobs,
    version: gr.Textbox,
    names: Sequence[str],
) -> GenerateTab:
    """Lay out the tab and connect it. names: concepts that are in use from the start."""
    actions = GenerateActions(workspace, jobs)
    with gr.Row():
        with gr.Column(scale=5, min_width=320, elem_classes="form-column"):
            with gr.Column():
                prompt = prompt_box(workspace)
                scene_buttons(workspace, prompt)
                panel = build_concepts(workspace, version, prompt, names)
                go, stop = go_and_stop("Generate")
            with gr.Column(elem_classes="later"):
                num, new_seed, seed = number_and_seed()
                settings, negative, file = _settings(workspace)
        with gr.Column(scale=6, min_width=320, elem_classes="output-column"):
            live, gallery = gr.HTML(elem_id="live"), picture_gallery()
            details = _details()
            history = build_history(workspace, *details.shown, gallery)
    inputs = [panel.chosen, prompt, negative, num, new_seed, seed, *settings]
    outputs = [gallery, live, seed]
    event = click_to_generate(go, stop, actions.generate, inputs, outputs, live, num)
    click_to_stop(stop, go, actions.stop, event, live)
    shown = details.shown
    gallery.select(history.select, gallery, shown, **QUEUED)
    form = [panel.chosen, prompt, negative, new_seed, seed, *settings, panel.changed]
    file.upload(actions.read_file, file, [details.text, details.group], **QUEUED).then(
        actions.fill, details.text, form, **QUEUED
    )
    details.reuse.click(actions.fill, details.text, form, **QUEUED)
    details.vary.click(actions.fill, details.text, form, **QUEUED).then(
        lambda: True, None, new_seed, js=CLICK_GENERATE, **QUEUED
    )
    details.delete.click(history.delete, details.name, shown, **QUEUED)
    fields = [prompt, negative, num, new_seed, seed, *settings]
    return GenerateTab(prompt, panel, settings, fields, actions.fill, form)


def prompt_box(workspace: Workspace) -> gr.Textbox:
    """What the pictures are to show."""
    return gr.Textbox(
        label="Prompt",
        info="What the pictures are to show. Ctrl+Enter generates.",
        placeholder=workspace.example_prompt(),
        lines=2,
        max_length=MAX_PROMPT,
        elem_id="prompt",
    )


def scene_buttons(workspace: Workspace, prompt: gr.Textbox) -> None:
    """Buttons that put a scene into the prompt."""
    with gr.Row(elem_classes="controls", elem_id="scenes"):
        for scene in SCENES:
            gr.Button(scene, size="sm", min_width=90, scale=0).click(
                lambda text, scene=scene: with_scene(text or "", scene, workspace.example_prompt()),
                prompt,
                prompt,
                **UNQUEUED,
            )


def _details() -> Details:
    """The parameters of the picture that was clicked, and what can be done with it."""
    name = hidden_textbox()
    with gr.Group(visible=False, elem_id="details") as group:
        text = gr.Textbox(
            label="Parameters", lines=4, max_length=20_000, buttons=["copy"], elem_id="text"
        )
        with gr.Row(elem_classes="actions"):
            reuse = gr.Button("Reuse, with its seed", size="sm", min_width=120, elem_id="reuse")
            vary = gr.Button("Vary it", size="sm", min_width=80, elem_id="vary")
            delete = gr.Button("Delete it", size="sm", min_width=80, elem_id="delete-picture")
    return Details(group, name, text, reuse, vary, delete)


def number_and_seed(most: int = MAX_PICTURES) -> tuple[gr.Slider, gr.Checkbox, gr.Number]:
    """The number of pictures, at most `most`; whether each job has a new seed; the seed."""
    num = clamped_slider(
        1, most, 2, step=1, label="Pictures", info="Each with its own seed.", buttons=[]
    )
    with gr.Row(elem_classes="controls"):
        seed = gr.Number(
            0,
            label="Seed",
            info="The same seed and settings give the same picture.",
            precision=0,
            minimum=0,
            maximum=MAX_SEED,
            min_width=140,
            elem_id="seed",
        )
        new_seed = gr.Checkbox(
            True,
            label="New seed each time",
            info="Else the seed stays as it is.",
            min_width=140,
        )
    return num, new_seed, seed


def _settings(workspace: Workspace) -> tuple[list[gr.Slider], gr.Textbox, gr.File]:
    """Steps, guidance, width and height; the negative prompt; a picture whose settings to use."""
    start = workspace.pipeline.defaults
    with gr.Accordion("Negative prompt, steps, guidance, size", open=False, elem_id="more"):
        negative = gr.Textbox(
            value="",
            label="Negative prompt",
            info="What the pictures are not to show.",
            placeholder="what not to generate",
            lines=1,
            max_length=MAX_PROMPT,
        )
        with gr.Row():
            steps = clamped_slider(
                1,
                MAX_STEPS,
                start.steps,
                step=1,
                label="Steps",
                info="More take longer, and add detail up to a point.",
                buttons=[],
            )
            guidance = clamped_slider(
                0,
                MAX_GUIDANCE,
                start.guidance,
                step=0.1,
                label="Guidance",
                info="How closely the prompt is followed.",
                buttons=[],
            )
        with gr.Row():
            width, height = (
                clamped_slider(
                    8,
                    MAX_SIZE,
                    value,
                    step=8,
                    label=f"{name}, px",
                    info="Bases are best at their own size.",
                    buttons=[],
                )
                for name, value in (("Width", start.width), ("Height", start.height))
            )
        file = gr.File(
            label="Drop a PNG made here to use its settings again",
            file_types=[".png"],
            height=140,
            elem_id="reuse-drop",
        )
    return [steps, guidance, width, height], negative, file


def picture_gallery() -> gr.Gallery:
    """The pictures of a job."""
    return gr.Gallery(
        label="Pictures",
        show_label=False,  # it would cover part of the first picture
        elem_id="pictures",
        format="png",  # the default, webp, would lose the parameters
        columns=2,
        height="auto",
        object_fit="contain",
        interactive=False,
        buttons=["download", "fullscreen"],
    )
