"""What the Generate tab's events do: generate, choose concepts, fill the form from a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...generation import Parameters, read_parameters
from ..studio import (
    MAX_ACTIVE_CONCEPTS,
    MAX_GUIDANCE,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    MAX_STRENGTH,
    Gallery,
    GenerationJobs,
    Job,
    Progress,
    Workspace,
    check_prompts,
    pick_seed,
    servable_copy,
)
from . import render
from .events import user_errors, warn


class GenerateActions:
    """What the tab's events do."""

    def __init__(self, workspace: Workspace, jobs: GenerationJobs) -> None:
        self.workspace, self.jobs = workspace, jobs

    def generate(
        self,
        chosen: dict,
        prompt: str,
        negative: str,
        num: float,
        new_seed: bool,
        seed: float,
        steps: float,
        guidance: float,
        width: float,
        height: float,
        window: gr.Request,
    ) -> Iterator[tuple[Any, str, Any]]:
        """Generate what the form says: gallery, live view, seed."""
        with user_errors():
            check_prompts(prompt, negative)
            seed = pick_seed(-1 if new_seed else seed)
            size = {"width": int(width), "height": int(height)}
            options = {"steps": int(steps), "guidance": guidance, "negative_prompt": negative}
            job = Job(self.jobs.select(chosen), prompt, int(num), seed, options | size)
            progress, made, shape = Progress(), [], f"{int(width)} / {int(height)}"
            for gallery, progress in self.jobs.pictures(window.session_hash, job):
                made = [path for path, _ in gallery] if gallery else made
                tiles = [*made, *[None] * (job.num - len(made))]
                yield _gallery(gallery), render.progress(progress, tiles, shape), seed
            yield gr.skip(), render.progress(Progress(remarks=progress.remarks)), gr.skip()

    def stop(self, window: gr.Request) -> None:
        """Stop this window's job."""
        self.jobs.stop(window.session_hash)

    def read_file(self, path: str | None) -> tuple[str, Any]:
        """The parameters of an uploaded picture; a warning where it has none."""
        if not path:
            return gr.skip(), gr.skip()
        found = None
        with contextlib.suppress(OSError, ValueError):
            found = read_parameters(path)
        if found is None:
            warn(["This picture has no parameters; drop a PNG file that was made here."])
        return found.to_infotext() if found else "", gr.update(visible=found is not None)

    def fill(self, text: str) -> tuple[Any, ...]:
        """Fill the form from parameters; they may come from anyone, so numbers are clamped."""
        if not text.strip():  # of a picture that has none
            return (gr.skip(),) * 10
        try:
            found = Parameters.from_infotext(text)
        except ValueError as error:
            warn([str(error)])
            return (gr.skip(),) * 10
        known, concepts = set(self.workspace.library.names()), dict(found.concepts)
        if missing := sorted(set(concepts) - known):
            warn([f"The library has no concept named {missing[0]!r}; add its file first."])
        chosen = {k: _clamp(v, 0, MAX_STRENGTH) for k, v in concepts.items() if k in known}
        size = [_clamp(side // 8 * 8, 8, MAX_SIZE) for side in (found.width, found.height)]
        return (
            dict(list(chosen.items())[:MAX_ACTIVE_CONCEPTS]),
            found.prompt[:MAX_PROMPT],
            found.negative_prompt[:MAX_PROMPT],
            False,
            _clamp(found.seed, 0, MAX_SEED),
            _clamp(found.steps, 1, MAX_STEPS),
            _clamp(found.guidance, 0, MAX_GUIDANCE),
            *size,
            str(chosen) + text,
        )


def _gallery(found: Gallery | None) -> Any:
    """Pictures for the page: one is shown whole, several as tiles."""
    if not found:
        return gr.skip()
    pictures = [(servable_copy(path), caption) for path, caption in found]
    return gr.update(value=pictures, columns=1 if len(pictures) == 1 else 2)


def _clamp(value: float, low: float, high: float) -> float:
    """A number within low and high; NaN becomes low."""
    return min(max(value, low), high) if value == value else low
