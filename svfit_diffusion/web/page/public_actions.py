"""What the events of a public page do, each for the visitor whose page it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ..studio import MAX_KEPT_PICTURES, Library, Visitors, discard_upload
from . import render
from .concepts_panel import with_word
from .generate_actions import GenerateActions

NONE = ""  # the name of no concept
BASE_ALONE = "none: the base alone"


class PublicActions:
    """What the page's events do."""

    def __init__(self, visitors: Visitors) -> None:
        self.visitors = visitors

    def choices(self, library: Library) -> list[tuple[str, str]]:
        """Label and name of each concept, the oldest first, and of none."""
        entries = reversed(library.entries())
        return [*((entry.card.trigger, entry.name) for entry in entries), (BASE_ALONE, NONE)]

    def add(self, path: str | None, prompt: str, window: gr.Request) -> tuple[Any, str, str]:
        """Add an uploaded concept file: choices, its facts or what is wrong, prompt."""
        try:
            name = self.visitors.add(window.session_hash, path or "")
        except ValueError as error:
            return gr.skip(), render.file_error(error), gr.skip()
        finally:
            discard_upload(path or "")  # the visitor's own copy is enough
        library = self.visitors.find(window.session_hash).workspace.library
        shown = gr.update(choices=self.choices(library), value=name)
        return shown, render.facts(library.get(name).card, ""), self._called(library, name, prompt)

    def choose(self, name: str, prompt: str, window: gr.Request) -> str:
        """The prompt with the word of the concept that was chosen, instead of another one's."""
        return self._called(self.visitors.find(window.session_hash).workspace.library, name, prompt)

    def _called(self, library: Library, name: str, prompt: str) -> str:
        prompt, entries = prompt or "", library.entries()
        chosen = next((entry for entry in entries if entry.name == name), None)
        if chosen is None:
            return prompt
        for other in entries:
            if other.name != name and other.card.trigger in prompt:
                return prompt.replace(other.card.trigger, chosen.card.trigger)
        return with_word(prompt, chosen)

    def generate(
        self,
        name: str,
        strength: float,
        prompt: str,
        num: float,
        new_seed: bool,
        seed: float,
        window: gr.Request,
    ) -> Iterator[tuple[Any, str, Any]]:
        """Generate with the base's own settings: gallery, live view, seed."""
        visit = self.visitors.of(window.session_hash)
        start, chosen = visit.workspace.pipeline.defaults, {name: strength} if name else {}
        settings = (start.steps, start.guidance, start.width, start.height)
        actions = GenerateActions(visit.workspace, visit.jobs)
        form = (chosen, prompt, "", num, new_seed, seed, *settings)
        yield from actions.generate(*form, window)
        visit.workspace.history.trim(MAX_KEPT_PICTURES)

    def stop(self, window: gr.Request) -> None:
        """Stop this visitor's job."""
        self.visitors.find(window.session_hash).jobs.stop(window.session_hash)

    def leave(self, window: gr.Request) -> None:
        """The page was closed."""
        self.visitors.forget(window.session_hash)
