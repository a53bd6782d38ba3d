"""web.studio.scenes: a click puts a scene into the prompt."""

import json
from pathlib import Path

import pytest

from svfit_diffusion.web.studio.scenes import OBJECTS, SCENES, with_scene

RECIPE = Path(__file__).parents[2] / "recipes" / "toybox"
EXAMPLE = "a photo of sks dog on the beach"


@pytest.mark.parametrize(
    ("prompt", "scene", "wanted"),
    [
        ("", "at night", "a photo of sks dog at night"),
        ("a photo of sks dog on the beach", "in the snow", "a photo of sks dog in the snow"),
        ("sks dog on the grass, red sky", "at night", "sks dog at night, red sky"),
        ("a drawing of sks dog.", "at sunset", "a drawing of sks dog at sunset"),
        ("sks dog in the seat", "at night", "sks dog in the seat at night"),
        ("sks dog at night", "at night", "sks dog at night"),
    ],
)
def test_a_scene_takes_the_place_of_another(prompt, scene, wanted):
    assert with_scene(prompt, scene, EXAMPLE) == wanted


def test_one_click_after_another_leaves_the_last_scene():
    prompt = "a photo of sks dog"
    for scene in SCENES:
        prompt = with_scene(prompt, scene, EXAMPLE)
    assert prompt == f"a photo of sks dog {SCENES[-1]}"


def test_toybox_was_trained_on_the_objects_and_draws_them():
    lines = [line.split("|") for line in (RECIPE / "objects.txt").read_text().splitlines()]
    trained = {parts[2].strip() for parts in lines if parts[0].startswith("train")}
    missed = json.loads((RECIPE / "check.json").read_text())["objects_on_white"]["missed"]
    assert missed and set(OBJECTS) <= trained - set(missed)
