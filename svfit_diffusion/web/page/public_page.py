"""The public page: one form and its pictures, for visitors who share nothing but the base."""

from __future__ import annotations

import gradio as gr

from ..studio import MAX_STRENGTH, Visitors
from . import render
from .base_bar import base_in_use
from .events import QUEUED, UNQUEUED, click_to_generate, click_to_stop, go_and_stop
from .generate_tab import number_and_seed, picture_gallery, prompt_box, scene_buttons
from .public_actions import PublicActions
from .sliders import clamped_slider

MAX_PICTURES = 4  # of one job
TITLE = (
    "# SVFit\nA concept is a file of a few KB that teaches a base one thing. Choose one, or add a "
    "file of yours, and generate. To train one from your own photos: `pip install "
    '"svfit-diffusion[app]"`, then `svfit app`.'
)
PRIVACY = (
    "What you add and generate is shown to you alone, and is deleted when you close this page. "
    "All visitors wait in one queue, so jobs are small."
)


def build_public_page(page: gr.Blocks, visitors: Visitors) -> None:
    """Lay out the page and connect it; to be called within `with page:`."""
    actions, offered = PublicActions(visitors), visitors.offered.workspace
    choices = actions.choices(offered.library)
    gr.Markdown(TITLE, elem_id="title")
    gr.HTML(base_in_use(offered), elem_id="base")
    with gr.Row():
        with gr.Column(scale=5, min_width=320, elem_classes="form-column"):
            concept, upload, facts = _concepts(choices)
            prompt = prompt_box(offered)
            prompt.value = offered.example_prompt()
            scene_buttons(offered, prompt)
            go, stop = go_and_stop("Generate")
            strength = clamped_slider(
                0,
                MAX_STRENGTH,
                1,
                step=0.05,
                label="Strength",
                info="0: the base alone, 1: as trained.",
                buttons=[],
            )
            num, new_seed, seed = number_and_seed(MAX_PICTURES)
        with gr.Column(scale=6, min_width=320, elem_classes="output-column"):
            live, pictures = gr.HTML(elem_id="live"), picture_gallery()
            gr.HTML(render.note(PRIVACY))
    upload.upload(actions.add, [upload, prompt], [concept, facts, prompt], **QUEUED)
    concept.input(actions.choose, [concept, prompt], prompt, **UNQUEUED)
    inputs, outputs = [concept, strength, prompt, num, new_seed, seed], [pictures, live, seed]
    event = click_to_generate(go, stop, actions.generate, inputs, outputs, live, num)
    click_to_stop(stop, go, actions.stop, event, live)
    page.unload(actions.leave)


def _concepts(choices: list[tuple[str, str]]) -> tuple[gr.Radio, gr.UploadButton, gr.HTML]:
    """The concept to use, a button to add one, and what the file that was added says."""
    concept = gr.Radio(choices, value=choices[0][1], label="Concept", elem_id="concept")
    upload = gr.UploadButton(
        "Add a concept file of this base",
        file_types=[".safetensors"],
        size="sm",
        elem_id="concept-file",
    )
    return concept, upload, gr.HTML(elem_id="facts")
