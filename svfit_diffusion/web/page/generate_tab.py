"""The Generate tab: a form and the library's cards on the left, pictures on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from ..studio import (
    DRAWING,
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    MAX_STRENGTH,
    QUEUED,
    QUICK,
    Drawing,
    Workspace,
    escaped,
    signal,
)
from . import render
from .generate_actions import Form


@dataclass
class GenerateTab:
    """The components that other tabs and the page reach for. chosen: name -> strength."""

    prompt: gr.Textbox
    chosen: gr.State
    settings: list[gr.Slider]


def build_generate(
    desk: Workspace, drawing: Drawing, version: gr.Textbox, names: Sequence[str]
) -> GenerateTab:
    """Lay out the tab and connect it."""
    form, chosen, refill = Form(desk, drawing), gr.State(dict.fromkeys(names, 1.0)), signal()
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            prompt, negative = _prompts(desk)
            with gr.Row(elem_classes="actions"):
                go = gr.Button("Generate", variant="primary", scale=4, elem_classes="go")
                stop = gr.Button("Stop", scale=1, min_width=90)
            _cards(desk, form, version, chosen, refill)
            num, fresh, seed = _number()
            sliders = _settings(desk)
            files = gr.File(
                label="Drop a PNG made here to use its settings again",
                file_types=[".png"],
                height=140,
                elem_id="reuse-drop",
            )
        with gr.Column(scale=6, min_width=320, elem_classes="made"):
            live = gr.HTML(elem_id="live")
            gallery = _gallery()
            with gr.Group(visible=False) as details:
                text = gr.Textbox(
                    label="Parameters", lines=4, max_length=20_000, buttons=["copy"], elem_id="text"
                )
                reuse = gr.Button("Reuse these", elem_id="reuse")
    inputs = [chosen, prompt, negative, num, fresh, seed, *sliders]
    event = go.click(
        form.generate,
        inputs,
        [gallery, live, seed],
        show_progress_on=live,
        **DRAWING,
    )
    stop.click(form.stop, cancels=[event], **QUICK).then(drawing.stopped, None, live, **QUICK)
    gallery.select(form.read, gallery, [text, details], **QUICK)
    files.upload(form.drop, files, [text, details], **QUEUED).then(
        form.fill, text, [*inputs[:3], fresh, seed, *sliders, refill], **QUEUED
    )
    reuse.click(form.fill, text, [*inputs[:3], fresh, seed, *sliders, refill], **QUEUED)
    return GenerateTab(prompt, chosen, sliders)


def _prompts(desk: Workspace) -> tuple[gr.Textbox, gr.Textbox]:
    prompt = gr.Textbox(
        label="Prompt",
        placeholder=desk.prompt(),
        lines=2,
        max_length=MAX_PROMPT,
        elem_id="prompt",
    )
    negative = gr.Textbox(
        value="",
        label="Negative prompt",
        placeholder="what not to draw",
        lines=1,
        max_length=MAX_PROMPT,
    )
    return prompt, negative


def _cards(
    desk: Workspace, form: Form, version: gr.Textbox, chosen: gr.State, refill: gr.Textbox
) -> None:
    """The library's concepts as cards, drawn anew when the library, base or choice changes."""

    @gr.render(
        [chosen],
        triggers=[version.change, refill.change],
        show_progress="hidden",
        concurrency_limit=None,
    )
    def cards(held: dict) -> None:
        entries = desk.library.entries()
        if not entries:
            gr.HTML(
                render.empty("No concepts yet", "Train one, or add a file under Share."),
            )
            return
        with gr.Row(elem_classes="cards"):
            for entry in entries:
                reason = desk.studio.misfit(entry.card)
                with gr.Column(elem_classes="card", min_width=220):
                    gr.HTML(render.concept(entry, reason))
                    if reason:
                        continue
                    with gr.Row(elem_classes="dial"):
                        on = gr.Checkbox(
                            entry.name in held,
                            label="Use",
                            min_width=70,
                            scale=1,
                            container=False,
                            interactive=True,
                        )
                        strength = gr.Slider(
                            0,
                            MAX_STRENGTH,
                            held.get(entry.name, 1.0),
                            step=0.05,
                            label=f"Strength of {escaped(entry.name)}",
                            scale=3,
                            min_width=120,
                            buttons=[],
                            interactive=True,
                        )
                    _connect(form, entry.name, on, strength, chosen)


def _connect(form: Form, name: str, on: gr.Checkbox, strength: gr.Slider, chosen: gr.State) -> None:
    def choose(used: bool, value: float, held: dict) -> dict:
        return form.choose(name, used, value, held)

    for happens in (on.input, strength.change):
        happens(
            choose,
            [on, strength, chosen],
            chosen,
            **QUEUED,
        )


def _number() -> tuple[gr.Slider, gr.Checkbox, gr.Number]:
    """Pictures, whether each time has a new seed, the seed."""
    num = gr.Slider(1, MAX_PICTURES, 2, step=1, label="Pictures", buttons=[])
    with gr.Row(elem_classes="dial"):
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=140, elem_id="seed"
        )
        fresh = gr.Checkbox(True, label="New seed each time", min_width=140)
    return num, fresh, seed


def _settings(desk: Workspace) -> list[gr.Slider]:
    """Steps, guidance, width, height."""
    start = desk.studio.defaults
    with gr.Accordion("Steps, guidance, size", open=False):
        with gr.Row():
            steps = gr.Slider(1, MAX_STEPS, start.steps, step=1, label="Steps", buttons=[])
            guidance = gr.Slider(
                0, MAX_GUIDANCE, start.guidance, step=0.1, label="Guidance", buttons=[]
            )
        with gr.Row():
            width, height = (
                gr.Slider(8, MAX_SIZE, value, step=8, label=f"{name}, px", buttons=[])
                for name, value in (("Width", start.width), ("Height", start.height))
            )
    return [steps, guidance, width, height]


def _gallery() -> gr.Gallery:
    return gr.Gallery(
        label="Pictures",
        show_label=False,  # it would lie on the first picture
        elem_id="pictures",
        format="png",  # the default, webp, would drop the parameters
        columns=2,
        object_fit="contain",
        interactive=False,
        buttons=["download", "fullscreen"],
    )
