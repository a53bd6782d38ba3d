"""The concepts at the prompt: a click switches one on and writes its word; a strength for each."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..studio import MAX_ACTIVE_CONCEPTS, MAX_STRENGTH, Entry, Workspace, disagreements
from . import render
from .events import QUEUED, UNQUEUED, escape, hidden_textbox
from .sliders import clamped_slider

MAX_CHIPS = 6  # concepts up to which each is a chip; more are searched


class ConceptActions:
    """What the panel's events do. chosen: name -> strength of the concepts in use."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def chips(self, chosen: dict) -> tuple[Any, Any, str]:
        """The concepts to choose from, as chips or as a list with search; those of other bases."""
        fitting = self.workspace.fitting()
        choices = [(f"{entry.card.trigger} ({entry.name})", entry.name) for entry in fitting]
        value = [entry.name for entry in fitting if entry.name in chosen]
        few = 0 < len(choices) <= MAX_CHIPS
        others = [entry.name for entry in self.workspace.library.entries()]
        others = [name for name in others if name not in [name for _, name in choices]]
        if not choices and not others:
            text = render.note("No concepts yet: train one, or add a file under Share.")
        else:
            text = render.note(f"Of another base: {', '.join(others)}." if others else "")
        return (
            gr.update(choices=choices, value=value, visible=few),
            gr.update(choices=choices, value=value, visible=len(choices) > MAX_CHIPS),
            text,
        )

    def keep_fitting(self, chosen: dict) -> tuple[Any, Any]:
        """After a change of the base or the library: the concepts in use that are still there, and
        a signal where some are not, which could be neither used nor switched off.
        """
        names = {entry.name for entry in self.workspace.fitting()}
        kept = {name: value for name, value in chosen.items() if name in names}
        if kept == chosen:
            return gr.skip(), gr.skip()
        return kept, f"{list(kept)} {time.monotonic_ns()}"

    def choose(self, names: Sequence[str], chosen: dict, prompt: str) -> tuple[Any, ...]:
        """After a click: concepts in use, prompt with the words of the new ones, two signals.

        The first signal is that the chips are to show another choice than the one clicked. They do
        so only then: on a busy server it would come late, and undo the next click.
        """
        names, many = list(names), len(names) > MAX_ACTIVE_CONCEPTS
        if many:
            gr.Warning(f"At most {MAX_ACTIVE_CONCEPTS} concepts can be used at once.")
            names = names[:MAX_ACTIVE_CONCEPTS]
        prompt = prompt or ""
        fitting = self.workspace.fitting()
        used = [entry for entry in fitting if entry.name in chosen]
        for entry in fitting:
            if entry.name in names and entry.name not in chosen:
                prompt = with_word(prompt, entry, used)
                used.append(entry)
        chosen = {name: chosen.get(name, 1.0) for name in names}
        signal = f"{names} {time.monotonic_ns()}"  # the same choice may be signalled twice
        return chosen, prompt, signal if many else gr.skip(), signal

    def hints(self, prompt: str, chosen: dict) -> str:
        """Where the prompt and the concepts disagree, and how long the prompt is."""
        found = disagreements(prompt or "", self.workspace.fitting(), chosen)
        length = self.workspace.pipeline.prompt_length(prompt or "")
        return render.prompt_hints(found, length)


def with_word(prompt: str, entry: Entry, used: Sequence[Entry] = ()) -> str:
    """A prompt that calls a concept: as it is where it does, else with its words put in.

    They follow those of a concept of `used` if there are any, "a and b on the beach", or come last.
    """
    words = [call.word for call in entry.card.concept.all_triggers() if call.word]
    if not words or any(word.lower() in prompt.lower().split() for word in words):
        return prompt
    if not prompt.strip():
        return f"a photo of {entry.card.trigger} on the beach"
    for other in reversed(used):
        before, found, after = prompt.rpartition(other.card.trigger)
        if found:
            return f"{before}{found} and {entry.card.trigger}{after}"
    return f"{prompt.rstrip()} and {entry.card.trigger}"


@dataclass(frozen=True)
class ConceptsPanel:
    """chosen: name -> strength, held by the browser.

    changed: a text whose change shows another choice.
    """

    chosen: gr.JSON
    changed: gr.Textbox


def build_concepts(
    workspace: Workspace, version: gr.Textbox, prompt: gr.Textbox, names: Sequence[str]
) -> ConceptsPanel:
    """Lay out the chips and connect them. names: concepts in use from the start."""
    actions = ConceptActions(workspace)
    chosen = gr.JSON(dict.fromkeys(names, 1.0), visible="hidden")
    changed, clicked = hidden_textbox(), hidden_textbox()
    chips = gr.CheckboxGroup(
        [], label="Concepts", info="Click to use one, and to write its word.", elem_id="chips"
    )
    search = gr.Dropdown(
        [],
        label="Concepts",
        info="Type to search.",
        multiselect=True,
        visible=False,
        elem_id="search",
    )
    others = gr.HTML(elem_classes="hint")
    hints = gr.HTML(elem_id="prompt-hints")
    for picker in (chips, search):
        picker.input(
            actions.choose,
            [picker, chosen, prompt],
            [chosen, prompt, changed, clicked],
            trigger_mode="always_last",
            **QUEUED,
        )
    shown = [chips, search, others]
    version.change(actions.keep_fitting, chosen, [chosen, changed], **UNQUEUED)
    for event in (version.change, changed.change):
        event(actions.chips, chosen, shown, **UNQUEUED)
    seen = [version.change, changed.change, clicked.change]
    for event in (prompt.change, *seen):
        event(actions.hints, [prompt, chosen], hints, trigger_mode="always_last", **UNQUEUED)

    @gr.render([chosen], triggers=seen, show_progress="hidden")
    def strengths(now: dict) -> None:
        for entry in workspace.fitting():
            if entry.name in now:
                _strength(entry, now[entry.name], chosen)

    return ConceptsPanel(chosen, changed)


def _strength(entry: Entry, value: float, chosen: gr.JSON) -> None:
    """How strongly a concept is in use, with its picture.

    A change is noted by the browser: a click on Generate that follows at once has it.
    """
    with gr.Row(elem_classes="card in-use"):
        gr.HTML(render.concept(entry), min_width=150)
        strength = clamped_slider(
            0,
            MAX_STRENGTH,
            value,
            step=0.05,
            label=f"Strength of {escape(entry.name)}",
            info="0: the base alone, 1: as trained.",
            min_width=150,
            buttons=[],
            interactive=True,
        )
    name = json.dumps(entry.name)
    script = f"""(value, now) => {name} in now
        ? {{...now, [{name}]: Math.min(Math.max(value || 0, 0), {MAX_STRENGTH})}} : now"""
    strength.change(None, [strength, chosen], chosen, js=script, **UNQUEUED)
