"""What the Share tab's events do: check and add files, export, delete and restore concepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from ..studio import GenerationJobs, Job, Workspace, make_lora_zip, read_card
from . import render
from .events import user_errors


class ShareActions:
    """What the tab's events do."""

    def __init__(self, workspace: Workspace, jobs: GenerationJobs) -> None:
        self.workspace, self.jobs = workspace, jobs

    def inspect(self, path: str | None) -> tuple[Any, ...]:
        """A file's facts, the Preview and Add buttons, and no preview yet."""
        hidden = gr.update(visible=False)
        if not path:
            return "", hidden, hidden, None, None
        try:
            card = read_card(path)
        except ValueError as error:
            return render.file_error(error), hidden, hidden, None, None
        mismatch = self.workspace.pipeline.mismatch(card)
        preview = gr.update(visible=not mismatch)
        return render.facts(card, mismatch), preview, gr.update(visible=True), None, None

    def preview(self, path: str | None, window: gr.Request) -> Iterator[tuple[Any, str]]:
        """Generate one picture with a file that is not in the library."""
        with user_errors():
            card = read_card(path or "")
            self.workspace.pipeline.check(card)
            job = Job([(card, 1.0)], f"a photo of {card.trigger}", 1, 0, {})
            for gallery, progress in self.jobs.pictures(window.session_hash, job):
                picture = gr.skip()
                if gallery:
                    with Image.open(gallery[0][0]) as image:
                        picture = image.convert("RGB")
                yield picture, render.progress(progress)

    def add(self, path: str | None, picture: Image.Image | None) -> tuple[Any, ...]:
        """Add a file to the library, with its preview if there is one, and clear the form."""
        with user_errors():
            name = self.workspace.library.add(path or "", preview=picture)
        gr.Info(f"{name} is in your library.")
        hidden = gr.update(visible=False)
        return None, "", hidden, hidden, None, self.workspace.version()

    def export(self, name: str) -> Any:
        """A concept as a LoRA for other programs, to be downloaded."""
        with user_errors():
            return gr.update(value=make_lora_zip(self.workspace, name), visible=True)

    def delete(self, name: str) -> tuple[str, Any]:
        """Delete a concept, and offer to restore it."""
        with user_errors():
            self.workspace.library.delete(name)
        return self.workspace.version(), gr.update(visible=True, value=f"Restore {name}")

    def undo(self) -> tuple[str, Any]:
        """Restore the concept that was deleted last."""
        with user_errors():
            name = self.workspace.library.undo()
        gr.Info(f"{name} is back.")
        return self.workspace.version(), gr.update(visible=False)
