"""web.studio.hints and the panel of concepts: prompt and concepts agree, or it is said."""

import gradio as gr
import pytest

from svfit_diffusion.web.page import render
from svfit_diffusion.web.page.concepts_panel import ConceptActions, with_word
from svfit_diffusion.web.studio.hints import disagreements
from svfit_diffusion.web.studio.limits import MAX_ACTIVE_CONCEPTS


@pytest.mark.parametrize(
    ("prompt", "chosen", "said"),
    [
        ("a photo of sks dog", ["rex"], []),
        ("a photo of SKS dog", ["rex"], []),
        ("a photo of a dog", [], []),
        ("a photo of sks dog", [], ["“sks”, but rex is off"]),
        ("a photo of a dog", ["rex"], ["rex is on, but the prompt does not say “sks dog”"]),
        ("a sksy dog", ["rex"], ["rex is on"]),
        ("", ["rex"], []),
        ("sks dog and zwx dog", ["rex"], ["“zwx”, but max is off"]),
    ],
)
def test_a_prompt_and_the_concepts_that_disagree(workspace, prompt, chosen, said):
    found = disagreements(prompt, workspace.fitting(), chosen)
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


def test_a_click_switches_a_concept_on_and_writes_its_word(workspace):
    actions = ConceptActions(workspace)
    chosen, prompt, *_ = actions.choose(["rex"], {}, "")
    assert (chosen, prompt) == ({"rex": 1.0}, "a photo of sks dog on the beach")
    chosen, prompt, *_ = actions.choose(["rex", "max"], chosen | {"rex": 0.5}, prompt)
    assert chosen == {"rex": 0.5, "max": 1.0}
    assert prompt == "a photo of sks dog and zwx dog on the beach"
    assert actions.choose(["max"], chosen, prompt)[:2] == ({"max": 1.0}, prompt)
    rex = workspace.library.get("rex")
    assert with_word("a photo of sks dog", rex) == "a photo of sks dog"
    max_ = workspace.library.get("max")
    beside = with_word("a photo of sks dog on the beach, at night", max_, [rex])
    assert beside == "a photo of sks dog and zwx dog on the beach, at night"
    assert with_word("a photo of a car", max_, [rex]) == "a photo of a car and zwx dog"


def test_tokens_are_counted_and_the_unread_end_is_struck_through(workspace):
    short = workspace.pipeline.prompt_length("a dog")
    assert short.room == 14 and 0 < short.tokens < short.room and not short.unread
    long = workspace.pipeline.prompt_length("dog " * 20 + "<b>")
    html = render.prompt_hints(["<i>"], long)
    assert "<s>dog" in html and "&lt;b&gt;</s>" in html and "&lt;i&gt;" in html
    assert f"{long.tokens} of 14 tokens" in html and render.prompt_hints([], None) == ""
    with workspace.pipeline._lock:
        assert workspace.pipeline.prompt_length("a dog") is None, "it waits for no picture"


def test_the_chips_are_set_only_where_they_show_another_choice(workspace):
    """Else a slow answer to one click undoes the next."""
    actions, skipped = ConceptActions(workspace), gr.skip()
    assert actions.choose(["rex"], {}, "")[2] == skipped
    many = [f"concept {i}" for i in range(MAX_ACTIVE_CONCEPTS + 1)]
    with pytest.warns(UserWarning, match="At most"):
        chosen, _, first, _ = actions.choose(many, {}, "")
        *_, second, _ = actions.choose(many, chosen, "")
    assert len(chosen) == MAX_ACTIVE_CONCEPTS
    assert skipped not in (first, second) and first != second
