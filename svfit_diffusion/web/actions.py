"""What the page and its API can do; each answer to a mistake is one sentence."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ..concept import printable
from ..pictures import save_png
from .studio import MAX_LABEL, Card, Studio, read_card

SLOTS = 4  # concepts at once
MAX_PICTURES, MAX_STEPS, MAX_GUIDANCE, MAX_STRENGTH = 8, 100, 20, 1.5
MAX_SEED = 2**32 - 1
MAX_PROMPT = 1_000  # characters
PROGRESS = gr.Progress()


def shown(text: object) -> str:
    """A message for the page, where messages are HTML: a stranger's text stays text."""
    text = printable(str(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def check_prompts(prompt: str, negative_prompt: str) -> None:
    """Refuse an empty prompt, and texts that only take long to cut."""
    if not prompt.strip():
        raise ValueError("Write what to draw into the prompt first.")
    if max(len(prompt), len(negative_prompt)) > MAX_PROMPT:
        raise ValueError(f"A prompt may have {MAX_PROMPT:,} characters at most.")


class Actions:
    """The page's actions on one studio."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def admit(self, paths: list[str] | None) -> tuple[list[tuple[str, Card]], list[str]]:
        """The usable concept files among these, each read, and a sentence for each that is not."""
        usable, refused = [], []
        for path in paths or []:
            if len(usable) == SLOTS:
                refused.append(f"Only the first {SLOTS} concepts are used.")
                break
            try:
                card = read_card(path)
                self.studio.check(card)
            except ValueError as error:
                refused.append(str(error))
            else:
                usable.append((str(path), card))
        return usable, refused

    def show_concepts(
        self, paths: list[str] | None, before: list[str], *strengths: float
    ) -> tuple[Any, ...]:
        """List the files given: a strength slider for each, a warning for each that is refused."""
        usable, refused = self.admit(paths)
        for sentence in refused:
            gr.Warning(shown(sentence))
        kept = [path for path, _ in usable]
        set_before = dict(zip(before, strengths, strict=False))
        sliders = [
            gr.update(label=card.label, value=set_before.get(path, 1.0), visible=True)
            for path, card in usable
        ]
        sliders += [gr.update(visible=False, value=1.0)] * (SLOTS - len(usable))
        files = (kept or None) if refused else gr.skip()
        return files, kept, gr.update(placeholder=self.example(usable)), *sliders

    def example(self, usable: list[tuple[str, Card]]) -> str:
        """A prompt to start from, with the first concept's trigger."""
        trigger = printable(usable[0][1].concept.trigger, MAX_LABEL) if usable else "a dog"
        return f"a photo of {trigger} on the beach"

    def generate(
        self,
        prompt: str,
        negative_prompt: str = "",
        num: float = 2,
        seed: float = 0,
        steps: float = 25,
        guidance: float = 3.0,
        concepts: list[str] | None = None,
        strength_1: float = 1.0,
        strength_2: float = 1.0,
        strength_3: float = 1.0,
        strength_4: float = 1.0,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[list[tuple[str, str]]]:
        """Draw pictures of a prompt with the concept files given, and return them as PNG files.

        The seeds are seed, seed + 1, ...; each PNG carries its parameters in its text chunk
        "parameters". strength_1 to strength_4 belong to the files in their order: 0 leaves a
        concept out, 1 is as trained. Pictures come one by one as they are ready.
        """
        prompt, negative_prompt = prompt or "", negative_prompt or ""
        num, steps, pictures = int(num), int(steps), []

        def stepped(picture: int, done: int) -> None:
            progress((picture * steps + min(done, steps), num * steps), unit="steps")

        try:
            check_prompts(prompt, negative_prompt)
            wanted = self._wanted(concepts, (strength_1, strength_2, strength_3, strength_4))
            options = {"steps": steps, "guidance": guidance, "negative_prompt": negative_prompt}
            drawn = self.studio.draw(wanted, prompt, num, int(seed), stepped, **options)
            with tempfile.TemporaryDirectory() as folder:  # the gallery takes a copy
                for image, made in drawn:
                    path = Path(folder, f"{made.seed:010d}.png")
                    save_png(image, path, made)
                    pictures.append((str(path), f"seed {made.seed}"))
                    yield pictures
        except ValueError as error:
            raise gr.Error(shown(error), print_exception=False) from error

    def _wanted(
        self, paths: list[str] | None, strengths: tuple[float, ...]
    ) -> list[tuple[Card, float]]:
        """The concepts with their strengths; ValueError where one cannot be used."""
        usable, refused = self.admit(paths)
        if refused:
            raise ValueError(refused[0])
        return [(card, value) for (_, card), value in zip(usable, strengths, strict=False)]
