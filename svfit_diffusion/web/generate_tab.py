"""The Generate tab: a form and the library's cards on the left, pictures on the right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..pictures import Parameters, read_parameters
from . import snippets
from .desk import (
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    MAX_STRENGTH,
    SLOTS,
    Desk,
    shown,
    signal,
    told,
    warn,
)
from .drawing import Drawing, check_prompts, chosen_seed
from .studio import Job

Window = gr.Request


@dataclass
class GenerateTab:
    """The components that other tabs and the page reach for. chosen: name -> strength."""

    prompt: gr.Textbox
    chosen: gr.State
    settings: list[gr.Slider]
    files: gr.File


class Form:
    """What the tab does."""

    def __init__(self, desk: Desk, drawing: Drawing) -> None:
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
        window: Window,
    ) -> Iterator[tuple[Any, str, Any]]:
        """Draw what the form says: gallery, live view, seed."""
        with told():
            check_prompts(prompt, negative)
            seed = chosen_seed(-1 if fresh else seed)
            sizes = {"width": int(width), "height": int(height)}
            options = {"steps": int(steps), "guidance": guidance, "negative_prompt": negative}
            job = Job(self.drawing.wanted(chosen), prompt, int(num), seed, options | sizes)
            yield [], snippets.note("Your turn comes"), seed
            live = ""
            for made, live in self.drawing.pictures(window.session_hash, job):
                yield gr.skip() if made is None else made, live, gr.skip()
            yield gr.skip(), "", gr.skip()

    def stop(self, window: Window) -> str:
        """End what this window has under way."""
        self.drawing.stop(window.session_hash)
        return snippets.note("Stopped.")

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


def build_generate(
    desk: Desk, drawing: Drawing, version: gr.Textbox, names: Sequence[str]
) -> GenerateTab:
    """Lay out the tab and connect it."""
    form, chosen, refill = Form(desk, drawing), gr.State(dict.fromkeys(names, 1.0)), signal()
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            prompt, negative = _prompts(desk)
            with gr.Row(elem_classes="actions"):
                go = gr.Button("Generate", variant="primary", scale=4, elem_classes="go")
                stop = gr.Button("Stop", scale=1, min_width=90)
            _cards(desk, form, version, chosen, refill)
            num, fresh, seed = _number()
            sliders = _settings(desk)
            files = gr.File(
                label="Drop a PNG made here to use its settings again",
                file_types=[".png"],
                height=140,
                elem_id="reuse-drop",
            )
        with gr.Column(scale=6, min_width=320):
            live = gr.HTML(elem_id="live")
            gallery = _gallery()
            with gr.Group(visible=False) as details:
                text = gr.Textbox(
                    label="Parameters", lines=4, max_length=20_000, buttons=["copy"], elem_id="text"
                )
                reuse = gr.Button("Reuse these", elem_id="reuse")
    inputs = [chosen, prompt, negative, num, fresh, seed, *sliders]
    event = go.click(
        form.generate,
        inputs,
        [gallery, live, seed],
        api_visibility="private",
        scroll_to_output=True,
        show_progress="minimal",
        show_progress_on=live,
        concurrency_id="draw",
        concurrency_limit=1,
    )
    quick = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    stop.click(form.stop, None, live, cancels=[event], **quick)
    gallery.select(form.read, gallery, [text, details], **quick)
    files.upload(form.drop, files, [text, details], **quick).then(
        form.fill, text, [*inputs[:3], fresh, seed, *sliders, refill], **quick
    )
    reuse.click(form.fill, text, [*inputs[:3], fresh, seed, *sliders, refill], **quick)
    return GenerateTab(prompt, chosen, sliders, files)


def _prompts(desk: Desk) -> tuple[gr.Textbox, gr.Textbox]:
    prompt = gr.Textbox(
        label="Prompt",
        placeholder=desk.prompt(),
        lines=2,
        max_length=MAX_PROMPT,
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


def _cards(
    desk: Desk, form: Form, version: gr.Textbox, chosen: gr.State, refill: gr.Textbox
) -> None:
    """The library's concepts as cards, drawn anew when the library, base or choice changes."""

    @gr.render(
        [chosen],
        triggers=[version.change, refill.change],
        show_progress="hidden",
        concurrency_limit=None,
    )
    def cards(held: dict) -> None:
        entries = desk.library.entries()
        if not entries:
            gr.HTML(
                snippets.empty("No concepts yet", "Train one, or add a file under Share."),
            )
            return
        with gr.Row(elem_classes="cards"):
            for entry in entries:
                reason = desk.studio.misfit(entry.card)
                with gr.Column(elem_classes="card", min_width=220):
                    gr.HTML(snippets.concept(entry, reason))
                    if reason:
                        continue
                    with gr.Row(elem_classes="dial"):
                        on = gr.Checkbox(
                            entry.name in held, label="Use", min_width=70, scale=1, container=False
                        )
                        strength = gr.Slider(
                            0,
                            MAX_STRENGTH,
                            held.get(entry.name, 1.0),
                            step=0.05,
                            label=f"Strength of {shown(entry.name)}",
                            scale=3,
                            min_width=120,
                            buttons=[],
                            interactive=True,
                        )
                    _connect(form, entry.name, on, strength, chosen)


def _connect(form: Form, name: str, on: gr.Checkbox, strength: gr.Slider, chosen: gr.State) -> None:
    def choose(used: bool, value: float, held: dict) -> dict:
        return form.choose(name, used, value, held)

    for happens in (on.input, strength.change):
        happens(
            choose,
            [on, strength, chosen],
            chosen,
            show_progress="hidden",
            api_visibility="private",
            queue=False,
        )


def _number() -> tuple[gr.Slider, gr.Checkbox, gr.Number]:
    """Pictures, whether each time has a new seed, the seed."""
    num = gr.Slider(1, MAX_PICTURES, 2, step=1, label="Pictures", buttons=[])
    with gr.Row(elem_classes="dial"):
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=140, elem_id="seed"
        )
        fresh = gr.Checkbox(True, label="New seed each time", min_width=140)
    return num, fresh, seed


def _settings(desk: Desk) -> list[gr.Slider]:
    """Steps, guidance, width, height."""
    start = desk.studio.defaults
    with gr.Accordion("Steps, guidance, size", open=False):
        with gr.Row():
            steps = gr.Slider(1, MAX_STEPS, start.steps, step=1, label="Steps", buttons=[])
            guidance = gr.Slider(
                0, MAX_GUIDANCE, start.guidance, step=0.1, label="Guidance", buttons=[]
            )
        with gr.Row():
            width, height = (
                gr.Slider(8, MAX_SIZE, value, step=8, label=f"{name}, px", buttons=[])
                for name, value in (("Width", start.width), ("Height", start.height))
            )
    return [steps, guidance, width, height]


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
