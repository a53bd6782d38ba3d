"""withheld.py: a picture that a safety checker flags is said, shown as such, and no preview."""

import logging

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from helpers.tiny_pipelines import load, make_concept
from PIL import Image

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept import write_concept
from svfit_diffusion.generation import generate, is_withheld
from svfit_diffusion.web.studio.generation_jobs import GenerationJobs


@pytest.fixture
def flagging(monkeypatch):
    """A base whose safety checker flags every picture, as diffusers answers then."""
    black = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    output = StableDiffusionPipelineOutput([black], [True])
    kind = "diffusers.StableDiffusionPipeline.__call__"
    monkeypatch.setattr(kind, torch.no_grad()(lambda self, **_: output))


def test_a_flagged_picture_is_said_and_shown_as_such(pipe, flagging, caplog):
    with caplog.at_level(logging.WARNING):
        image, made = next(generate(pipe, "sks dog", seed=7, width=32, height=32))
    assert "withheld by the base's safety checker: the picture with seed 7" in caplog.text
    assert is_withheld(image) and image.size == (32, 32) and made.seed == 7
    assert np.asarray(image).mean() > 60


def test_an_unflagged_picture_is_not(pipe):
    assert not is_withheld(next(generate(pipe, "sks dog", steps=1))[0])


def test_it_is_no_preview_of_an_export(base_folder, flagging, tmp_path, capsys):
    file = write_concept(make_concept(load(base_folder)), tmp_path / "rex.safetensors")
    output = tmp_path / "out.safetensors"
    command = ["export", str(file), "--base", str(base_folder), "--to", "kohya", "--output"]
    assert main([*command, str(output), "--preview", "draw"]) == 0
    assert output.is_file() and not output.with_suffix(".png").exists()


def test_it_is_no_preview_in_the_library(pipe, flagging):
    """The page gives a concept the first picture that shows it alone."""
    image, _ = next(generate(pipe, "sks dog"))
    GenerationJobs(None)._set_missing_preview(None, image)  # looks at nothing else
