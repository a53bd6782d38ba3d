"""web.studio.verdict: what is called learned, and what is not."""

from importlib.resources import files

import pytest
from PIL import Image, ImageOps

from svfit_diffusion.data.reading import read_folder
from svfit_diffusion.toybox import load
from svfit_diffusion.training.subject import sample_folder
from svfit_diffusion.web.page import run_panel
from svfit_diffusion.web.studio import verdict
from svfit_diffusion.web.studio.familiarity import familiarity


@pytest.fixture(scope="module")
def photos():
    return [photo.image for photo in read_folder(sample_folder())[0]]


def scenes(before, after):
    pairs = zip(before, after, strict=True)
    return [verdict.Scene("a photo", *pair) for pair in pairs]


def test_likeness_goes_from_the_base_to_the_photos_themselves(photos):
    others = [Image.new("RGB", (128, 128), colour) for colour in ("red", "green", "blue")]
    learned, best = verdict.measure(scenes(others, photos[2:]), photos)
    same, _ = verdict.measure(scenes(others, others[::-1]), photos)
    assert learned > 0.9 and verdict.in_words(learned) == "clearly"
    assert abs(same) < 0.05 and verdict.in_words(same) == "hardly"
    mixed = [others[1], ImageOps.mirror(photos[0]), others[2]]
    assert verdict.measure(scenes(others, mixed), photos)[1] == 1, "the preview is the best one"
    with pytest.raises(ValueError, match="cannot be compared"):
        verdict.measure(scenes(others, others), photos[:1])


def test_a_failed_training_is_not_called_learned():
    status = {"state": "done", "likeness": 0.02, "step": 1}
    status["advice"] = verdict.advice(0.02, 5, 100, unknown=True)
    html = run_panel.run(status)
    assert "Not learned: hardly like your photos" in html and ">Learned" not in html
    assert "Toybox cannot draw real photos" in html and "1 step " in html and "1 steps" not in html
    good = run_panel.run({"state": "done", "likeness": 0.8})
    assert "Learned: clearly like your photos" in good and "80 % like your photos" in good
    assert not verdict.advice(0.8, 5, 100, unknown=False)
    blobs = run_panel.run({"state": "done", "likeness": 0.18, "unknown": True})
    assert "hardly like your photos" in blobs, "the right colours are not the subject"
    silent = run_panel.run({"state": "done", "unmeasured": "One photo cannot be compared."})
    assert "Learned" not in silent and "One photo cannot be compared." in silent


def test_toybox_knows_its_own_world_and_no_real_photos(photos):
    pipe, real = load(), files("gradio") / "media_assets" / "images" / "lion.jpg"
    known = familiarity(pipe, photos)
    with Image.open(str(real)) as image:
        unknown = familiarity(pipe, [image])
    print(known, unknown)
    assert known.known and not unknown.known
