"""The sample concept that ships: it is whole, it is small, and Toybox takes it."""

import numpy as np
import pytest
from PIL import Image

from svfit_diffusion.concept import read_concept
from svfit_diffusion.families import load_base
from svfit_diffusion.generation import generate
from svfit_diffusion.pipeline import load_concept, remove_concept
from svfit_diffusion.subject import sample_folder


@pytest.fixture
def sample():
    return sample_folder().parent / "robot.safetensors"


def test_it_is_small_and_of_this_toybox(sample):
    concept = read_concept(sample)
    assert sample.stat().st_size < 6_000
    assert concept.base == "toybox" and concept.values == 1_280


def test_it_draws_its_colours_and_leaves_no_trace(sample):
    """Without the concept the middle of the beach is sand; with it, the robot's cooler greys."""
    pipe, prompt = load_base("toybox"), "a photo of sks toy on the beach"

    def middle():
        image, _ = next(generate(pipe, prompt, seed=1))
        return np.asarray(image, dtype=float)[48:112, 40:88]

    before = middle()
    name = load_concept(pipe, sample)
    with_it = middle()
    remove_concept(pipe, name)
    assert np.array_equal(middle(), before)
    warmth = [(m[..., 0] - m[..., 2]).mean() for m in (before, with_it)]
    assert warmth[1] < warmth[0] - 20


def test_the_sheet_is_there(sample):
    assert Image.open(sample.parent / "sheet.png").width > 1000
