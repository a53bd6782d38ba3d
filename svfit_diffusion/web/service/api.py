"""The app's endpoints for programs (gradio_client): each public action, named and described.

Their components are not on the page; Gradio checks the files and numbers that come in through them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ...generation import read_parameters, save_png
from ..page import PROMPT, Trainer
from ..studio import (
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    QUALITIES,
    Drawing,
    Job,
    Workspace,
    check_prompts,
    chosen_seed,
    describe,
    fresh_file,
    packed_lora,
    read_card,
    served,
    user_errors,
)


class Api:
    """The endpoints' functions; their docstrings are what a program's author reads."""

    def __init__(self, desk: Workspace, drawing: Drawing, trainer: Trainer) -> None:
        self.desk, self.drawing, self.trainer = desk, drawing, trainer

    def generate(
        self,
        prompt: str,
        negative_prompt: str = "",
        concepts: dict | None = None,
        num: float = 1,
        seed: float = 0,
        steps: float | None = None,
        guidance: float | None = None,
        width: float | None = None,
        height: float | None = None,
        request: gr.Request = None,
    ) -> Iterator[list[tuple[str, str]]]:
        """Draw pictures of a prompt with concepts of the library, and return them as PNG files.

        concepts: names with their strengths, such as {"rex": 0.8}; 0 leaves one out, 1 is as
        trained. The seeds are seed, seed + 1, ...; -1 stands for a random one. What is left out
        takes the base's own value. Each PNG carries its parameters in its text chunk
        "parameters". Pictures come one by one as they are ready.
        """
        with user_errors():
            prompt, negative_prompt = prompt or "", negative_prompt or ""
            check_prompts(prompt, negative_prompt)
            options = {"negative_prompt": negative_prompt, "guidance": guidance}
            options |= {
                key: None if value is None else int(value)
                for key, value in (("steps", steps), ("width", width), ("height", height))
            }
            wanted = self.drawing.wanted(concepts or {})
            job = Job(wanted, prompt, int(num), chosen_seed(seed), options)
            for made, _ in self.drawing.pictures(_window(request), job):
                if made:
                    yield made

    def compare(
        self,
        concepts: list | None,
        prompt: str = PROMPT,
        seed: float = 0,
        steps: float | None = None,
        request: gr.Request = None,
    ) -> Iterator[str]:
        """Draw a labelled grid, a PNG: one concept at strengths from 0 to 1.5, or several of them.

        concepts: names, one to vary its strength, up to four to compare. "{}" in the prompt stands
        for each concept's trigger.
        """
        with user_errors():
            given = {"steps": None if steps is None else int(steps)}
            names, seed = list(concepts or []), chosen_seed(seed)
            for picture, _ in self.drawing.compare(_window(request), names, prompt, seed, given):
                if picture:
                    path = fresh_file(f"comparison-{seed:010d}.png")
                    save_png(picture, path)
                    yield str(path)

    def train(
        self,
        photos: list | None,
        what: str,
        trigger: str = "",
        quality: str = QUALITIES[0],
        name: str = "",
        max_train_steps: float | None = None,
        seed: float = 0,
    ) -> dict:
        """Start a training of the subject in some photos, and return its status at once.

        photos: with captions, if there are any: .txt files named like them. what: what it is, "a
        dog". trigger: a rare word to call it by; one is chosen if empty.
        quality: quick, balanced, thorough or auto. One training runs at a time; ask /training how
        it goes. What it learned comes into the library.
        """
        steps = int(max_train_steps) if max_train_steps else None
        with user_errors():
            given = {"name": name, "max_train_steps": steps, "seed": int(seed)}
            return self.trainer.start(photos, what, trigger, quality, **given).status()

    def training(self) -> dict:
        """How the latest training stands: state, step, steps, seconds left, losses, message."""
        run = self.desk.runs.latest()
        return run.status() if run else {"state": "none"}

    def stop_training(self) -> dict:
        """End the training under way after its step; what it learned so far is kept."""
        if run := self.desk.runs.going():
            run.stop()
        return self.training()

    def resume_training(self) -> dict:
        """Go on with the latest training, which was stopped or failed, and return its status."""
        with user_errors():
            return self.desk.runs.resume().status()

    def library(self) -> list:
        """The library's concepts: name, facts, and why one cannot be used on the base, if so."""
        return [
            {
                "name": entry.name,
                **entry.card.facts(),
                "misfit": self.desk.studio.misfit(entry.card),
            }
            for entry in self.desk.library.entries()
        ]

    def inspect(self, file: str) -> dict:
        """Check a concept file and say what it is, without adding it."""
        with user_errors():
            card = read_card(file or "")
            return {**card.facts(), "misfit": self.desk.studio.misfit(card)}

    def add(self, file: str, name: str = "") -> str:
        """Check a concept file, put it into the library, and return its name there."""
        with user_errors():
            return self.desk.library.add(file or "", name)

    def download(self, name: str) -> str:
        """The file of a concept of the library."""
        with user_errors():
            return served(self.desk.library.get(name).path)

    def lora(self, name: str) -> str:
        """A concept of the library as a LoRA for other programs: a ZIP with all that belongs to it.

        In it: the LoRA in kohya's format, its JSON and picture, and the learned word's embedding.
        """
        with user_errors():
            return packed_lora(self.desk, name)

    def delete(self, name: str) -> str:
        """Delete a concept of the library; /undo brings back the last one."""
        with user_errors():
            self.desk.library.delete(name)
        return name

    def undo(self) -> str:
        """Bring back the concept that was deleted last, and return its name."""
        with user_errors():
            return self.desk.library.undo()

    def parameters(self, picture: str) -> str:
        """The generation parameters that a PNG carries, as AUTOMATIC1111's web UI writes them."""
        with user_errors():
            try:
                held = read_parameters(picture or "")
            except OSError:
                raise ValueError(f"{Path(picture or '').name} is no picture.") from None
            return held.to_infotext() if held else ""

    def base(self, source: str) -> str:
        """Family, download, memory and licence of a base, in one sentence; nothing is fetched."""
        with user_errors():
            return describe(source, self.desk.local).sentence()

    def use_base(self, source: str) -> str:
        """Load another base for all windows; it is downloaded where it is not here yet."""
        with user_errors():
            if self.desk.runs.going():
                raise ValueError("A training is under way; choose another base when it has ended.")
            self.desk.studio.use(describe(source, self.desk.local).source)
        return self.desk.studio.base


def _window(request: gr.Request | None) -> str:
    return (request and request.session_hash) or "api"


def build_api(desk: Workspace, drawing: Drawing, trainer: Trainer) -> None:
    """Register the endpoints, on components that nobody sees."""
    api = Api(desk, drawing, trainer)
    with gr.Group(visible=False):
        text, some, quality, scene = (
            gr.Textbox(default, max_length=2_000) for default in (None, "", QUALITIES[0], PROMPT)
        )
        value, answer, line = gr.JSON(), gr.JSON(), gr.Textbox()
        photos, file = gr.File(file_count="multiple"), gr.File()
        pictures = gr.Gallery(format="png")
        png = gr.Image(type="filepath", format="png")
        knobs = [
            gr.Number(1, precision=0, minimum=1, maximum=MAX_PICTURES),
            gr.Number(0, precision=0, minimum=-1, maximum=MAX_SEED),
            gr.Number(None, precision=0, minimum=1, maximum=MAX_STEPS),
            gr.Number(None, minimum=0, maximum=MAX_GUIDANCE),
            *(gr.Number(None, precision=0, minimum=8, maximum=MAX_SIZE) for _ in range(2)),
        ]
        count = gr.Number(None, precision=0, minimum=1)
        press = gr.Button()
    num, seed, steps, *_ = knobs
    draws = {"concurrency_id": "draw", "concurrency_limit": 1}
    endpoints: list[tuple[Any, list, Any, dict]] = [
        (api.generate, [text, some, value, *knobs], pictures, draws),
        (api.compare, [value, scene, seed, steps], png, draws),
        (api.train, [photos, text, some, quality, some, count, seed], answer, {}),
        (api.training, [], answer, {}),
        (api.stop_training, [], answer, {}),
        (api.resume_training, [], answer, {}),
        (api.library, [], answer, {}),
        (api.inspect, [file], answer, {}),
        (api.add, [file, some], line, {}),
        (api.download, [text], file, {}),
        (api.lora, [text], file, draws),
        (api.delete, [text], line, {}),
        (api.undo, [], line, {}),
        (api.parameters, [file], line, {}),
        (api.base, [text], line, {}),
        (api.use_base, [text], line, draws),
    ]
    for function, inputs, outputs, more in endpoints:
        press.click(function, inputs, outputs, api_name=function.__name__, **more)
