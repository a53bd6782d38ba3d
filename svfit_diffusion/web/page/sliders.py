"""Sliders that use what their number field shows, whatever was typed."""

from __future__ import annotations

from typing import Any

import gradio as gr


def clamped_slider(minimum: float, maximum: float, value: float, **options: Any) -> gr.Slider:
    """A gr.Slider that clamps a typed number to its range, as its field does once it is left.

    Gradio's own slider raises instead, so that the value before stays in use unseen. Not a
    subclass: Gradio would write a .pyi file beside this one. So set its value, not gr.update(),
    which makes a slider of Gradio's own.
    """
    slider = gr.Slider(minimum, maximum, value, **options)
    preprocess = slider.preprocess

    def clamp(typed: float | None) -> float:
        number = minimum if typed is None or typed != typed else typed  # an empty field, NaN
        return preprocess(min(max(number, minimum), maximum))

    slider.preprocess = clamp
    return slider
