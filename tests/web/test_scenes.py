"""web.studio.scenes: a click puts a scene into the prompt."""

import pytest

from svfit_diffusion.web.studio.scenes import SCENES, with_scene

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
