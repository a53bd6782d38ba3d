"""What the Share tab's events do: check and add files, export, delete and restore concepts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ...concept import printable
from ..studio import (
    EMBEDDING,
    Card,
    GenerationJobs,
    Job,
    Workspace,
    kind_of,
    make_lora_zip,
    read_card,
    unused_word,
)
from . import render
from .events import escape, user_errors


class ShareActions:
    """What the tab's events do."""

    def __init__(self, workspace: Workspace, jobs: GenerationJobs) -> None:
        self.workspace, self.jobs = workspace, jobs

    def inspect(self, path: str | None) -> tuple[Any, ...]:
        """A file's facts, the Preview and Add buttons, its word, and no preview yet.

        Values of: facts, preview, add, word, picture, shown, usable (the concept file to add).
        """
        hidden = gr.update(visible=False)
        nothing = (hidden, hidden, hidden, None, None, "")
        if not path:
            return "", *nothing
        try:
            usable, remark = self._usable(path)
            card = read_card(usable)
        except ValueError as error:
            return render.file_error(error), *nothing
        mismatch = self.workspace.pipeline.mismatch(card)
        facts = render.facts(card, mismatch, remark)
        preview, add = gr.update(visible=not mismatch), gr.update(visible=True)
        return facts, preview, add, self._word(card), None, None, usable

    def _usable(self, path: str) -> tuple[str, str]:
        """The concept file that a file is or is converted to, and a sentence on that."""
        kind = kind_of(path)
        if kind == "lora":
            converted, remark = self.workspace.pipeline.convert_lora(path)
            return str(converted), remark
        if kind == "embedding":
            raise ValueError(EMBEDDING.format(printable(Path(path).name, 100)))
        return path, ""

    def _word(self, card: Card) -> Any:
        """The field for its word: its own, or where that is taken a free one."""
        concept, library = card.concept, self.workspace.library
        if not concept.learned or len(concept.all_triggers()) != 1:
            return gr.update(visible=False, value="")
        if concept.token.lower() not in library.words():
            return gr.update(visible=True, value=concept.token, info="It calls the concept.")
        info = f"Its own, {printable(concept.token, 40)}, calls another concept of yours."
        word = unused_word(library, card.name)
        return gr.update(visible=True, value=word, info=escape(info))

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

    def stop(self, window: gr.Request) -> None:
        """Stop this window's preview."""
        self.jobs.stop(window.session_hash)

    def add(self, path: str | None, word: str, picture: Image.Image | None) -> tuple[Any, ...]:
        """Add a file to the library, with its preview if there is one, and clear the form."""
        with user_errors():
            name = self.workspace.library.add(path or "", "", picture, (word or "").strip())
        gr.Info(f"{name} is in your library.")
        hidden = gr.update(visible=False)
        return None, "", hidden, hidden, hidden, None, self.workspace.version()

    def rename(self, name: str, word: str) -> str:
        """Call a concept of the library by another word."""
        with user_errors():
            self.workspace.library.rename(name, (word or "").strip())
        gr.Info(f"{name} is called by {escape(word)} now.")
        return self.workspace.version()

    def export(self, name: str) -> Any:
        """A concept as a LoRA for other programs, to be downloaded."""
        with user_errors():
            return gr.update(value=make_lora_zip(self.workspace, name), visible=True)

    def delete(self, name: str) -> str:
        """Delete a concept: it moves to the bin."""
        with user_errors():
            self.workspace.library.delete(name)
        return self.workspace.version()

    def restore(self, which: str) -> str:
        """Restore a deleted concept."""
        with user_errors():
            name = self.workspace.library.undo(which)
        gr.Info(f"{name} is back.")
        return self.workspace.version()
