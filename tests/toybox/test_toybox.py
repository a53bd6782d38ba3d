"""Toybox as it ships, and the demo on it, cut short."""

import pytest
import torch
from PIL import Image

from svfit_diffusion import toybox
from svfit_diffusion.cli.demo import SCENES, run_demo
from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.data.reading import read_folder
from svfit_diffusion.families import load_base
from svfit_diffusion.generation.pictures import read_parameters
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.training.subject import sample_folder


@pytest.fixture(scope="module")
def base():
    return load_base("toybox")


def test_it_is_small_and_of_stable_diffusions_classes(base):
    size = sum(p.stat().st_size for p in toybox.path().rglob("*") if p.is_file())
    assert size <= 60_000_000
    assert type(base).__name__ == "StableDiffusionPipeline"
    assert base.scheduler.config.prediction_type == "v_prediction"
    assert base.unet.config.sample_size * base.vae_scale_factor == toybox.RESOLUTION


def test_triggers_are_one_token_each(base):
    ids = [base.tokenizer(word, add_special_tokens=False).input_ids for word in toybox.TRIGGERS]
    assert all(len(i) == 1 for i in ids) and len({i[0] for i in ids}) == len(ids)


def test_weights_are_published_in_float16():
    from safetensors import safe_open

    for file in toybox.path().rglob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            names = [k for k in weights.keys() if k.endswith("weight")]  # noqa: SIM118
            assert {weights.get_tensor(k).dtype for k in names} == {torch.float16}


def test_a_picture_has_the_colour_it_was_asked_for(base):
    """The base draws: a plain background comes out in its colour."""
    wanted = {"red": (230, 40, 40), "blue": (50, 90, 220), "green": (60, 170, 70)}
    for name in wanted:
        image, _ = next(generate(base, f"a photo of a ball on a {name} background", seed=1))
        corners = [image.getpixel(p) for p in ((4, 4), (123, 4), (4, 123), (123, 123))]
        mean = [sum(c[i] for c in corners) / 4 for i in range(3)]

        def distance(other, mean=mean):
            return sum((a - b) ** 2 for a, b in zip(mean, other, strict=True))

        assert min(wanted, key=lambda n: distance(wanted[n])) == name


def test_the_sample_subject_is_there():
    photos, skipped = read_folder(sample_folder())
    assert len(photos) == 5 and not skipped
    assert {p.image.size for p in photos} == {(128, 128)}


def test_the_demo_makes_a_small_file_pictures_and_a_sheet(tmp_path):
    demo = run_demo(str(tmp_path), max_train_steps=3, say=lambda _: None)
    concept = read_concept(demo.trained.path)
    assert demo.trained.path.stat().st_size < 6_000
    assert concept.base == "toybox" and concept.trigger == "sks toy"
    assert len(demo.scenes) == len(SCENES) == 8
    for path, scene in zip(demo.scenes, SCENES, strict=True):
        assert read_parameters(path).prompt == scene.format("sks toy")
        assert Image.open(path).size == (128, 128)
    assert Image.open(demo.sheet).width > 1000
    base = Image.open(tmp_path / "base.png").tobytes()
    assert base != Image.open(demo.scenes[0]).tobytes()
