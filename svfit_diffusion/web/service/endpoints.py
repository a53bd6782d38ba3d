"""Registers the API's endpoints: each public action, named and described, on typed components.

The components are invisible; Gradio checks the files and numbers that come in through them.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..page import ONE_AT_A_TIME
from ..studio import (
    COMPARE_PROMPT,
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    QUALITIES,
    GenerationJobs,
    Workspace,
)
from .api import Api

MAX_TEXT = 2_000  # characters


def build_api(workspace: Workspace, jobs: GenerationJobs) -> None:
    """Register the endpoints, on invisible components."""
    api = Api(workspace, jobs)
    with gr.Group(visible=False):
        text, optional_text, quality, compare_prompt = (
            gr.Textbox(default, max_length=MAX_TEXT)
            for default in (None, "", QUALITIES[0], COMPARE_PROMPT)
        )
        value, text_answer = gr.JSON(), gr.Textbox(label="text")
        answer, entries = gr.JSON(label="facts"), gr.JSON(label="concepts")
        photos, file = gr.File(file_count="multiple"), gr.File(label="file")
        pictures = gr.Gallery(format="png", label="pictures")
        grid = gr.Image(type="filepath", format="png", label="picture")
        num = gr.Number(1, precision=0, minimum=1, maximum=MAX_PICTURES)
        seed = gr.Number(0, precision=0, minimum=-1, maximum=MAX_SEED)
        steps = gr.Number(None, precision=0, minimum=1, maximum=MAX_STEPS)
        guidance = gr.Number(None, minimum=0, maximum=MAX_GUIDANCE)
        size = [gr.Number(None, precision=0, minimum=8, maximum=MAX_SIZE) for _ in range(2)]
        train_steps = gr.Number(None, precision=0, minimum=1)
        event = gr.Button()
    generation = [text, optional_text, value, num, seed, steps, guidance, *size]
    training = [photos, text, optional_text, quality, optional_text, train_steps, seed]
    endpoints: list[tuple[Any, list, Any, dict]] = [
        (api.generate, generation, pictures, ONE_AT_A_TIME),
        (api.compare, [value, compare_prompt, seed, steps], grid, ONE_AT_A_TIME),
        (api.train, training, answer, {}),
        (api.training, [], answer, {}),
        (api.stop_training, [], answer, {}),
        (api.resume_training, [], answer, {}),
        (api.library, [], entries, {}),
        (api.inspect, [file], answer, {}),
        (api.add, [file, optional_text, optional_text], text_answer, {}),
        (api.rename, [text, text, optional_text], answer, {}),
        (api.download, [text], file, {}),
        (api.lora, [text], file, ONE_AT_A_TIME),
        (api.delete, [text], text_answer, {}),
        (api.undo, [], text_answer, {}),
        (api.parameters, [file], text_answer, {}),
        (api.base, [text], text_answer, {}),
        (api.use_base, [text], text_answer, ONE_AT_A_TIME),
    ]
    for function, inputs, outputs, options in endpoints:
        event.click(function, inputs, outputs, api_name=function.__name__, **options)
