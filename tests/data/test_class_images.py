"""class_images.py: each class image says what made it, and a folder of another class is refused."""

from dataclasses import replace

import pytest
from accelerate import Accelerator
from helpers.tiny_pipelines import load, run
from PIL import Image

from svfit_diffusion import toybox
from svfit_diffusion.data import fill_class_images, read_folder
from svfit_diffusion.data.examples import seed_of
from svfit_diffusion.generation import Parameters, read_parameters, save_png


@pytest.fixture
def fill(config, pipe, tmp_path):
    """`fill(prompt, ...)` fills a folder with two class images; returns their names."""
    folder = tmp_path / "class"
    config = replace(
        config, class_data_dir=str(folder), with_prior_preservation=True, num_class_images=2
    )

    def filled(prompt="a photo of a dog", size=32, base=pipe, **changes):
        given = replace(config, **changes)
        fill_class_images(given, Accelerator(cpu=True), base, prompt, size, progress=False)
        return sorted(path.name for path in folder.iterdir())

    filled.folder = folder
    return filled


def test_what_made_a_class_image_is_in_it(fill, caplog):
    assert fill() == ["class-00000.png", "class-00001.png"]
    made = read_parameters(fill.folder / "class-00001.png")
    assert (made.prompt, made.base, made.width, made.height) == ("a photo of a dog", "tiny", 32, 32)
    assert made.seed == seed_of(0, "class-00001.png")
    Image.new("RGB", (32, 32)).save(fill.folder / "mine.png")
    with caplog.at_level("INFO"):
        assert len(fill(num_class_images=3, seed=1)) == 3
    assert "1 class images that were not generated here are used" in caplog.text
    assert "2 class images of another --seed are used" in caplog.text


def test_class_images_of_another_class_base_or_size_are_refused(fill, base_folder, tmp_path):
    fill()
    load(base_folder).save_pretrained(tmp_path / "other")
    for reason, given in {
        "the prompt 'a photo of a dog', and not of 'a photo of a cat'": {
            "prompt": "a photo of a cat"
        },
        "the base 'tiny', and not of 'other'": {"base": load(tmp_path / "other")},
        "the size 32, and not of 64": {"size": 64},
    }.items():
        with pytest.raises(ValueError, match=f"class-00000.png is a class image of {reason}"):
            fill(**given)


def test_the_photos_folder_is_no_class_folder(config, photos):
    before = sorted(photos.iterdir())
    given = {"with_prior_preservation": True, "class_data_dir": f"{photos}/../{photos.name}"}
    with pytest.raises(ValueError, match="is the folder of the photos"):
        run(config, **given, num_class_images=9)
    assert sorted(photos.iterdir()) == before


def test_toybox_generates_its_class_images_as_it_generates_anything(fill):
    fill("a photo of a toy", size=64, base=toybox.load(), num_class_images=1)
    made = read_parameters(fill.folder / "class-00000.png")
    assert (made.steps, made.guidance) == (toybox.STEPS, toybox.GUIDANCE)


def test_pictures_that_a_person_put_there_count_and_are_used_as_they_are(fill, photos):
    """Of any kind that is read as a photo, also where another program wrote what made them."""
    fill.folder.mkdir()
    made = Image.new("RGB", (32, 32), "red")
    made.save(fill.folder / "a.webp")
    save_png(made, fill.folder / "b.png", Parameters(prompt="a cat", width=64, height=64))
    assert fill() == ["a.webp", "b.png"]
    found, _ = read_folder(fill.folder, most=1)
    assert [photo.path.name for photo in found] == ["a.webp"]
