"""What the app's endpoints for programs (gradio_client) do; endpoints.py registers them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ...generation import read_parameters, save_png
from ..page import user_errors
from ..studio import (
    COMPARE_PROMPT,
    QUALITIES,
    Card,
    GenerationJobs,
    Job,
    Run,
    Workspace,
    check_prompts,
    describe_base,
    make_lora_zip,
    new_file,
    pick_seed,
    read_card,
    servable_copy,
    start_training,
)


class Api:
    """The endpoints' functions; their names, parameters and docstrings are what clients see."""

    def __init__(self, workspace: Workspace, jobs: GenerationJobs) -> None:
        self.workspace, self.jobs = workspace, jobs

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
        """Generate pictures with concepts of the library, and return them as PNG files.

        concepts: names with their strengths, such as {"rex": 0.8}; 0 is the base, 1 is as
        trained. The seeds are seed, seed + 1, ...; -1 stands for a random one. Parameters that are
        left out have the base's defaults. Each PNG has its parameters in its text chunk
        "parameters". Pictures are returned one by one as they are ready.
        """
        with user_errors():
            prompt, negative_prompt = prompt or "", negative_prompt or ""
            check_prompts(prompt, negative_prompt)
            options = {"negative_prompt": negative_prompt, "guidance": guidance}
            options |= {
                key: None if value is None else int(value)
                for key, value in (("steps", steps), ("width", width), ("height", height))
            }
            selected = self.jobs.select(concepts or {})
            job = Job(selected, prompt, int(num), pick_seed(seed), options)
            for gallery, _ in self.jobs.pictures(_window(request), job):
                if gallery:
                    yield [(_by_seed(path), caption) for path, caption in gallery]

    def compare(
        self,
        concepts: list | None,
        prompt: str = COMPARE_PROMPT,
        seed: float = 0,
        steps: float | None = None,
        request: gr.Request = None,
    ) -> Iterator[str]:
        """Generate a labelled grid, a PNG: one concept at strengths from 0 to 1.5, or several.

        concepts: names, one to vary its strength, up to four to compare. "{}" in the prompt stands
        for each concept's trigger.
        """
        with user_errors():
            options = {"steps": None if steps is None else int(steps)}
            names, seed = _names(concepts), pick_seed(seed)
            for grid, _ in self.jobs.compare(_window(request), names, prompt, seed, options):
                if grid:
                    path = new_file(f"comparison-{seed:010d}.png")
                    save_png(grid, path)
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
        """Start a training of the subject in some photos, and return its id and status at once.

        photos: photos, and optionally their captions: .txt files with the same names. what: what
        the photos show, "a dog". trigger: the word that calls it; one is proposed if empty.
        quality: quick, balanced, thorough or auto. One training runs at a time; /training reports
        its progress. The concept is added to the library.
        """
        with user_errors():
            steps = int(max_train_steps) if max_train_steps else None
            run = start_training(
                self.workspace,
                photos,
                what,
                trigger,
                quality,
                name=name,
                max_train_steps=steps,
                seed=int(seed),
            )
            return _status(run)

    def training(self) -> dict:
        """The status of the latest training: id, state, step, steps, seconds left, likeness.

        state: starting, preparing, training, finishing; done, stopped, cancelled, failed; or none.
        likeness: 0 is the base's own pictures, 1 the photos themselves. concept: its name in the
        library, once there is one.
        """
        return _status(self.workspace.runs.latest())

    def stop_training(self) -> dict:
        """Stop the training that is running after its step; what it learned so far is kept."""
        if run := self.workspace.runs.active():
            run.stop()
        return self.training()

    def resume_training(self) -> dict:
        """Resume the latest training, which was stopped or failed, and return its status."""
        with user_errors():
            return _status(self.workspace.runs.resume())

    def library(self) -> list:
        """The library's concepts, the newest first: name, words, base, bytes, whether each fits.

        misfit: why it does not fit the base in use; empty where it does.
        """
        return [
            {"name": entry.name, **self._facts(entry.card)}
            for entry in self.workspace.library.entries()
        ]

    def inspect(self, file: str) -> dict:
        """Check a concept file and return its facts, without adding it to the library."""
        with user_errors():
            return self._facts(read_card(file or ""))

    def add(self, file: str, name: str = "", word: str = "") -> str:
        """Check a concept file, add it to the library, and return its name there.

        word: that calls it from now on; by default its own.
        """
        with user_errors():
            return self.workspace.library.add(file or "", name, word=word)

    def rename(self, name: str, word: str, old: str = "") -> dict:
        """Call a concept of the library by another word, and return its facts.

        old: which of its words, where it has several.
        """
        with user_errors():
            self.workspace.library.rename(name, word, old or None)
            return {"name": name, **self._facts(self.workspace.library.get(name).card)}

    def download(self, name: str) -> str:
        """The file of a concept of the library."""
        with user_errors():
            return servable_copy(self.workspace.library.get(name).path)

    def lora(self, name: str) -> str:
        """A concept of the library as a LoRA for other programs, in a ZIP.

        It has the LoRA in kohya's format, its JSON and picture, and the trigger's embedding.
        """
        with user_errors():
            return make_lora_zip(self.workspace, name)

    def delete(self, name: str) -> str:
        """Delete a concept of the library; /undo restores the last one."""
        with user_errors():
            self.workspace.library.delete(name)
        return name

    def undo(self) -> str:
        """Restore the concept that was deleted last, and return its name."""
        with user_errors():
            return self.workspace.library.undo()

    def parameters(self, picture: str) -> str:
        """The generation parameters in a PNG, in the format of AUTOMATIC1111's web UI."""
        with user_errors():
            try:
                found = read_parameters(picture or "")
            except OSError:
                raise ValueError(f"{Path(picture or '').name} is not a picture.") from None
            return found.to_infotext() if found else ""

    def base(self, source: str) -> str:
        """Family, download size, memory and licence of a base, in one sentence; no download."""
        with user_errors():
            return describe_base(source, self.workspace.local).sentence()

    def use_base(self, source: str) -> str:
        """Load another base for all windows; it is downloaded if it is not on this machine."""
        with user_errors():
            self.workspace.check_idle()
            self.workspace.switch_base(describe_base(source, self.workspace.local).source)
        return self.workspace.pipeline.base

    def _facts(self, card: Card) -> dict[str, Any]:
        misfit = self.workspace.pipeline.mismatch(card)
        return {**card.data(), "fits": not misfit, "misfit": misfit}


def _by_seed(path: Path) -> str:
    """A copy of a picture of the history, named by its seed."""
    return servable_copy(path, f"{int(path.stem.rpartition('-')[2]):010d}.png")


def _names(concepts: Any) -> list[str]:
    """Names of concepts; ValueError for anything but a list of them."""
    if not isinstance(concepts, list) or not all(isinstance(name, str) for name in concepts):
        raise ValueError('Concepts must be a list of names: ["rex", "max"].')
    return concepts


def _status(run: Run | None) -> dict[str, Any]:
    """A training's id and status."""
    return {"id": run.folder.name, **run.status()} if run else {"id": "", "state": "none"}


def _window(request: gr.Request | None) -> str:
    return (request and request.session_hash) or "api"
