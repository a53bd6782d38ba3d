"""What the page remembers, and what it forgets: the settings of another base, concepts that do not
fit any more.
"""

import gradio as gr
import pytest

from svfit_diffusion.web.page.concepts_panel import ConceptActions
from svfit_diffusion.web.service.assembly import build_app

FORM = ["a photo of sks dog", "", 2, True, 7]
KEPT = {"values": [*FORM, 9, 3.5, 512, 512], "chosen": {"rex": 0.5, "other": 1.0}}
SKIPPED = gr.skip()


@pytest.fixture
def events(workspace):
    """The page's functions by their names."""
    functions = [held.fn for held in build_app(workspace).fns.values() if held.fn]
    return {function.__name__: function for function in functions}


def own(workspace):
    start = workspace.pipeline.defaults
    return [start.steps, start.guidance, start.width, start.height]


def test_settings_come_back_with_their_base_alone(workspace, events):
    """Else a base of 1,024 pixels would draw at Toybox's 128."""
    restore, here = events["restore"], workspace.pipeline.base
    chosen, signal, *values = restore(KEPT | {"base": here}, {})
    assert chosen == {"rex": 0.5} and "rex" in signal and values == KEPT["values"]
    _, _, *values = restore(KEPT | {"base": "another"}, {})
    assert values == [*FORM, *own(workspace)]
    _, _, *values = restore({}, {})
    assert values == [SKIPPED] * len(FORM) + own(workspace)
    assert events["keep"]({}, *FORM)["base"] == here


def test_another_windows_base_brings_its_settings(workspace, events):
    now, update = workspace.version(), events["update"]
    assert update(now) == (SKIPPED,) * 7
    other = f"another {now.rpartition(' ')[2]}"
    assert list(update(other)[3:]) == own(workspace)
    assert list(update(f"{workspace.pipeline.base} before")[3:]) == [SKIPPED] * 4
    assert list(update("")[3:]) == [SKIPPED] * 4  # a page that is loaded has what it remembers


def test_a_concept_that_does_not_fit_is_not_kept_in_use(workspace):
    """It is not shown, so that nobody could switch it off."""
    keep = ConceptActions(workspace).keep_fitting
    assert keep({"rex": 1.0}) == (SKIPPED, SKIPPED)
    chosen, signal = keep({"rex": 0.5, "other": 1.0, "deleted": 1.0})
    assert chosen == {"rex": 0.5} and signal


def test_a_preview_of_a_strangers_file_can_be_stopped(workspace):
    stops = [held.fn for held in build_app(workspace).fns.values()
             if getattr(held.fn, "__qualname__", "") == "ShareActions.stop"]  # fmt: skip
    assert len(stops) == 1
