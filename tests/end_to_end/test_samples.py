"""The sample concept that ships: it is whole, it is small, and Toybox takes it."""

import numpy as np
import pytest
from PIL import Image

from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.evaluation.features import load_extractor
from svfit_diffusion.families import load_base
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline.loading import load_concept, remove_concept
from svfit_diffusion.training.subject import sample_folder


@pytest.fixture
def sample():
    return sample_folder().parent / "robot.safetensors"


def test_it_is_small_and_of_this_toybox(sample):
    concept = read_concept(sample)
    assert sample.stat().st_size < 6_000
    assert concept.base == "toybox" and concept.values == 5_952


def test_it_looks_like_its_subject_and_leaves_no_trace(sample):
    """Pictures with the concept lie nearer to its photos than the same ones without it."""
    pipe, prompt = load_base("toybox"), "a photo of sks toy on a white background"
    see = load_extractor("efficientnet-lite0").features
    photos = see([Image.open(path) for path in sorted((sample.parent / "photos").glob("*.png"))])

    def draw():
        return [image for image, _ in generate(pipe, prompt, seed=1, num=4)]

    before = draw()
    name = load_concept(pipe, sample)
    with_it = draw()
    remove_concept(pipe, name)
    assert all(np.array_equal(*pair) for pair in zip(draw(), before, strict=True))
    likeness = [float((see(pictures) @ photos.T).mean()) for pictures in (before, with_it)]
    assert likeness[1] > likeness[0] + 0.05


def test_the_sheet_is_there(sample):
    assert Image.open(sample.parent / "sheet.png").width > 1000
