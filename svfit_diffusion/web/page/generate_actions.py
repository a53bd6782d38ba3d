"""What the Generate tab does with its form: draw, choose concepts, fill it from a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...generation import Parameters, read_parameters
from ..studio import (
    MAX_GUIDANCE,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    MAX_STRENGTH,
    SLOTS,
    Drawing,
    Job,
    Workspace,
    check_prompts,
    chosen_seed,
    user_errors,
    warn,
)
from . import render


class Form:
    """What the tab does."""

    def __init__(self, desk: Workspace, drawing: Drawing) -> None:
        self.desk, self.drawing = desk, drawing

    def generate(
        self,
        chosen: dict,
        prompt: str,
        negative: str,
        num: float,
        fresh: bool,
        seed: float,
        steps: float,
        guidance: float,
        width: float,
        height: float,
        window: gr.Request,
    ) -> Iterator[tuple[Any, str, Any]]:
        """Draw what the form says: gallery, live view, seed."""
        with user_errors():
            check_prompts(prompt, negative)
            seed = chosen_seed(-1 if fresh else seed)
            sizes = {"width": int(width), "height": int(height)}
            options = {"steps": int(steps), "guidance": guidance, "negative_prompt": negative}
            job = Job(self.drawing.wanted(chosen), prompt, int(num), seed, options | sizes)
            yield [], render.note("Your turn comes"), seed
            live = ""
            for made, live in self.drawing.pictures(window.session_hash, job):
                yield gr.skip() if made is None else made, live, gr.skip()
            yield gr.skip(), "", gr.skip()

    def stop(self, window: gr.Request) -> None:
        """End what this window has under way."""
        self.drawing.stop(window.session_hash)

    def choose(self, name: str, on: bool, strength: float, chosen: dict) -> dict:
        """The concepts in use, after a card was changed."""
        chosen = {k: v for k, v in chosen.items() if k != name}
        if on and len(chosen) >= SLOTS:
            gr.Warning(f"At most {SLOTS} concepts can be used at once.")
        return chosen | {name: strength} if on else chosen

    def read(self, pictures: list | None, event: gr.SelectData) -> tuple[str, Any]:
        """The parameters of the picture that was clicked."""
        path = pictures[event.index][0] if pictures and event.index < len(pictures) else None
        held = read_parameters(path) if path else None
        return held.to_infotext() if held else "", gr.update(visible=held is not None)

    def drop(self, path: str | None) -> tuple[str, Any]:
        """The parameters of a picture that was dropped; a warning where it carries none."""
        if not path:
            return gr.skip(), gr.skip()
        held = None
        with contextlib.suppress(OSError, ValueError):
            held = read_parameters(path)
        if held is None:
            warn(["This picture carries no parameters; drop a PNG as it was made here."])
        return held.to_infotext() if held else "", gr.update(visible=held is not None)

    def fill(self, text: str) -> tuple[Any, ...]:
        """Fill the form from parameters: a stranger's text, so every number is brought in range."""
        try:
            held = Parameters.from_infotext(text)
        except ValueError as error:
            warn([str(error)])
            return (gr.skip(),) * 10
        known, concepts = set(self.desk.library.names()), dict(held.concepts)
        if missing := sorted(set(concepts) - known):
            warn([f"The library has no concept named {missing[0]!r}; its file is needed for it."])
        kept = {k: _within(v, 0, MAX_STRENGTH) for k, v in concepts.items() if k in known}
        size = [_within(side // 8 * 8, 8, MAX_SIZE) for side in (held.width, held.height)]
        return (
            dict(list(kept.items())[:SLOTS]),
            held.prompt[:MAX_PROMPT],
            held.negative_prompt[:MAX_PROMPT],
            False,
            _within(held.seed, 0, MAX_SEED),
            _within(held.steps, 1, MAX_STEPS),
            _within(held.guidance, 0, MAX_GUIDANCE),
            *size,
            str(kept) + text,
        )


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high) if value == value else low
