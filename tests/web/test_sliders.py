"""web.page.sliders: numbers that were typed, as the app receives them."""

import gradio as gr
import pytest

from svfit_diffusion.web.page.sliders import clamped_slider


@pytest.mark.parametrize(
    ("typed", "used"), [(0.5, 0.5), (2, 1.5), (-1, 0), (None, 0), (float("nan"), 0), (1.5, 1.5)]
)
def test_a_typed_number_is_clamped_as_its_field_does(typed, used):
    with gr.Blocks():
        assert clamped_slider(0, 1.5, 1, step=0.05).preprocess(typed) == used
