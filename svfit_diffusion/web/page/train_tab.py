"""The Train tab: photos, what they show and one button on the left; the training on the right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ...settings import AUTO, PRESETS, TrainConfig
from ..studio import (
    MAX_SEED,
    MAX_TRAIN_STEPS,
    MAX_WORDS,
    QUALITIES,
    Workspace,
    make_config,
)
from . import render
from .events import QUEUED, UNQUEUED
from .photo_board import build_board
from .train_actions import TrainActions


@dataclass
class TrainTab:
    """The components that other parts of the page use. trained: the concept's name, or "".

    view: the components that show a training, the version seen first.
    """

    use: gr.Button
    trained: gr.State
    view: list[Any]


def build_train(actions: TrainActions, version: gr.Textbox) -> TrainTab:
    """Lay out the tab and connect it."""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            center = gr.Checkbox(
                False,
                label="Only the middle of long photos",
                info="Else three places of each are used.",
                render=False,  # below, among the advanced settings
            )
            board = build_board(actions.workspace, center)
            subject = gr.Textbox(
                label="What is it?",
                info="What a stranger would call it.",
                placeholder="a dog",
                max_length=MAX_WORDS,
                elem_id="what",
            )
            hint = gr.HTML(elem_classes="hint")
            quality = gr.Radio(
                [(q.capitalize(), q) for q in QUALITIES],
                value=QUALITIES[0],
                label="How long",
                info=how_long(actions.workspace),
            )
            go = gr.Button("Train", variant="primary", size="lg", elem_classes="go")
            token, advanced = _advanced(center)
        with gr.Column(scale=6, min_width=320, elem_classes="output-column"):
            tab, (stop, resume) = _view(go)
    board.sample.click(board.take_sample, None, [board.photos, subject], **QUEUED)
    version.change(lambda: gr.update(info=how_long(actions.workspace)), None, quality, **UNQUEUED)
    name, preset = advanced[:2]
    words = [subject, token, name, preset]
    for event in (*(field.change for field in words), version.change):
        event(actions.phrase, words, hint, **UNQUEUED)
    form = [board.photos, board.edits, board.guesses, subject, token, quality, *advanced]
    go.click(actions.start, form, tab.view, **QUEUED)
    stop.click(actions.stop, None, tab.view, **UNQUEUED)
    resume.click(actions.resume, None, tab.view, **QUEUED)
    gr.Timer(1).tick(actions.show, tab.view[0], tab.view, **UNQUEUED)
    return tab


def _view(go: gr.Button) -> tuple[TrainTab, tuple[gr.Button, gr.Button]]:
    """What shows a training; and the buttons Stop and Resume."""
    seen, trained = gr.State(""), gr.State("")
    view = gr.HTML(elem_id="run")
    stop = gr.Button("Stop and keep what was learned", visible=False, elem_id="stop")
    resume = gr.Button("Resume", visible=False, elem_id="resume")
    with gr.Row(visible=False) as result:
        use = gr.Button("Use it now", variant="primary", elem_id="use")
        download = gr.DownloadButton("Download", elem_id="download")
    sheet = gr.Image(
        show_label=False,
        type="filepath",
        format="png",
        interactive=False,
        visible=False,
        buttons=["download", "fullscreen"],
        elem_id="sheet",
    )
    shown = [seen, view, go, stop, resume, result, sheet, download, trained]
    return TrainTab(use, trained, shown), (stop, resume)


def how_long(workspace: Workspace) -> str:
    """How long each quality takes on the base in use: minutes, as the last training took; steps."""
    base, default = workspace.pipeline.source, TrainConfig.max_train_steps
    before, per_step = (
        workspace.runs.last_known(key, base) for key in ("prepare_seconds", "step_seconds")
    )
    said = []
    for quality in QUALITIES:
        config = make_config(base, Path(), "x", "x", "x", quality)
        steps = config.get("max_train_steps", default)
        if steps == AUTO:
            said.append("auto: until the loss hardly falls")
        elif None in (before, per_step):
            said.append(f"{quality}: {steps:,} steps")
        else:
            took = render.duration(before + steps * per_step)
            said.append(f"{quality}: about {took} ({steps:,} steps)")
    unknown = " · in minutes after the first training" if per_step is None else ""
    return " · ".join(said) + unknown


def _advanced(center: gr.Checkbox) -> tuple[gr.Textbox, list[Any]]:
    """The trigger word, and the settings of train_actions.ADVANCED, with `center` among them."""
    with gr.Accordion("Advanced", open=False):
        with gr.Row():
            token = gr.Textbox(
                "",
                label="The word that calls it",
                info="In prompts, before what it is.",
                placeholder="made of its name",
                max_length=MAX_WORDS,
            )
            name = gr.Textbox(
                "",
                label="Name in the library",
                info="And of its file.",
                placeholder="what it is",
            )
        with gr.Row():
            preset = gr.Dropdown(
                list(PRESETS),
                value="tiny",
                label="Preset",
                info="tiny: a few KB, with a learned word. paper: the plain method of the paper.",
            )
            steps = gr.Number(
                0, label="Steps", info="0: as chosen above", precision=0, maximum=MAX_TRAIN_STEPS
            )
        with gr.Row():
            rate = gr.Number(
                0,
                label="Learning rate",
                info="0: the default",
                minimum=0,
                maximum=1,
            )
            seed = gr.Number(
                0,
                label="Seed",
                info="The same seed trains the same.",
                precision=0,
                minimum=0,
                maximum=MAX_SEED,
            )
            size = gr.Number(0, label="Size, px", info="0: the base's", precision=0, maximum=1_024)
        with gr.Row():
            center.render()
            flip = gr.Checkbox(
                False,
                label="Mirror half of the photos",
                info="Not for writing, or where left and right differ.",
            )
        licence = gr.Textbox(
            "",
            label="Licence of the file",
            info="It is stored in the file, for those who get it.",
            placeholder="CC-BY-4.0",
        )
    return token, [name, preset, steps, rate, seed, size, center, flip, licence]
