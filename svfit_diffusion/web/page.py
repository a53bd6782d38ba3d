"""How the page looks: a form on the left, pictures on the right, below one another on a phone."""

from __future__ import annotations

import gradio as gr

from ..families import TOYBOX
from .actions import (
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_SEED,
    MAX_STEPS,
    MAX_STRENGTH,
    SLOTS,
    Actions,
)
from .studio import Studio

QUEUE = 16  # generations that may wait
CACHE = (3_600, 86_400)  # seconds: look every hour, delete what is older than a day

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.blue,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    font=("ui-sans-serif", "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "Consolas", "monospace"),
).set(
    button_primary_background_fill="*primary_600",  # white on the default is hard to read
    button_primary_background_fill_hover="*primary_700",
)
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#pictures, #pictures .empty { min-height: 420px; }
@media (max-width: 768px) {
  #pictures, #pictures .empty { min-height: 220px; }
  footer { display: none !important; }
}
footer .divider:last-child { display: none; }
#pictures .empty::after {
  content: "Your pictures appear here: write a prompt, then press Generate or Ctrl+Enter.";
  max-width: 260px; margin-left: 12px; color: var(--body-text-color-subdued);
}
"""
# Ctrl+Enter (Cmd+Enter on a Mac) generates, wherever the cursor is.
SHORTCUT = """() => document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    document.querySelector("#generate").click();
  }
})"""
RANDOM_SEED = f"() => Math.floor(Math.random() * {MAX_SEED + 1})"


def build_page(studio: Studio, concepts: list[str]) -> gr.Blocks:
    """The page on a studio, with these concept files in it from the start."""
    actions = Actions(studio)
    with gr.Blocks(title="SVFit", analytics_enabled=False, delete_cache=CACHE) as page:
        gr.Markdown(f"# SVFit\n{_world(studio)}", elem_id="title")
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                prompt, negative = _prompts(actions.example(actions.admit(concepts)[0]))
                files, shown, sliders = _concepts(concepts)
                settings = _settings(studio)
                button = gr.Button("Generate", variant="primary", size="lg", elem_id="generate")
            with gr.Column(scale=6, min_width=320):
                gallery = _gallery()
        listed = [files, shown, prompt, *sliders]
        for happens in (files.change, page.load):
            happens(
                actions.show_concepts,
                [files, shown, *sliders],
                listed,
                api_visibility="private",
                show_progress="hidden",
            )
        button.click(
            actions.generate,
            [prompt, negative, *settings, files, *sliders],
            gallery,
            api_name="generate",
            scroll_to_output=True,
            concurrency_id="generate",
            concurrency_limit=1,
        )
    return page.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=2)


def _world(studio: Studio) -> str:
    """One sentence on the base in use."""
    size = studio.defaults.width
    if studio.base == TOYBOX:
        return (
            f"This is Toybox, a demo world of toy-like objects at {size} px; it came with the "
            "program, so nothing is downloaded."
        )
    return f"Pictures of {size} px from the base `{studio.base.replace('`', '')}`."


def _prompts(example: str) -> tuple[gr.Textbox, gr.Textbox]:
    prompt = gr.Textbox(
        label="Prompt",
        placeholder=example,
        lines=2,
        max_length=MAX_PROMPT,
        autofocus=True,
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


def _concepts(paths: list[str]) -> tuple[gr.File, gr.State, list[gr.Slider]]:
    """The files, the paths whose sliders are shown, and a strength slider for each slot."""
    files = gr.File(
        value=paths or None,
        label=f"Concepts: drop up to {SLOTS} .safetensors files",
        file_count="multiple",
        file_types=[".safetensors"],
        height=150,
    )
    sliders = [
        gr.Slider(0, MAX_STRENGTH, 1.0, step=0.05, label=f"Strength {i + 1}", visible=False)
        for i in range(SLOTS)
    ]
    return files, gr.State([]), sliders


def _settings(studio: Studio) -> tuple[gr.Slider, gr.Number, gr.Slider, gr.Slider]:
    """Number, seed, steps, guidance."""
    start = studio.defaults
    with gr.Row(equal_height=True):
        num = gr.Slider(1, MAX_PICTURES, 2, step=1, label="Pictures", min_width=140, buttons=[])
        dice = gr.Button("Random", size="sm", render=False)
        seed = gr.Number(
            0,
            label="Seed",
            precision=0,
            minimum=0,
            maximum=MAX_SEED,
            min_width=140,
            buttons=[dice],
        )
    with gr.Accordion("Steps and guidance", open=False):
        steps = gr.Slider(1, MAX_STEPS, start.steps, step=1, label="Steps")
        guidance = gr.Slider(0, MAX_GUIDANCE, start.guidance, step=0.1, label="Guidance")
    dice.click(None, None, seed, js=RANDOM_SEED, api_visibility="private")
    return num, seed, steps, guidance


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
