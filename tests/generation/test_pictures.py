"""Parameters survive the trip through a PNG; grids and sheets show what they were given."""

import os
import stat
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from svfit_diffusion.generation.pictures import (
    Parameters,
    grid,
    read_parameters,
    save_png,
    sheet,
    size_text,
)

REX = Parameters(
    "a photo of rex, on the beach",
    "blurry",
    steps=25,
    sampler="DPM++ 2M Karras",
    guidance=5.0,
    seed=1,
    width=128,
    height=96,
    base="toybox",
    concepts=(("rex", 0.8),),
)
TEXT = (
    "a photo of rex, on the beach\nNegative prompt: blurry\n"
    "Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 5.0, Seed: 1, Size: 128x96, Model: toybox, "
    'Concepts: "rex:0.8"'
)
# Any text, and often one that looks like the format itself.
words = st.lists(
    st.sampled_from(["\n", "\\", '"', ", ", ": ", "Negative prompt:", "Steps: 1", " ", "\r", "é"])
    | st.text(max_size=5)
).map("".join)
numbers = st.floats(allow_nan=False)
counts = st.integers(0, 2**63)


def plain(colour: str, width: int = 64, height: int = 64) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def test_the_text_is_the_one_other_programs_read():
    assert REX.to_infotext() == TEXT
    assert Parameters.from_infotext(TEXT) == REX
    bare = Parameters("a dog", sampler="Euler, of sorts", seed=7)
    line = 'Steps: 25, Sampler: "Euler, of sorts", CFG scale: 5.0, Seed: 7, Size: 512x512'
    assert bare.to_infotext() == f"a dog\n{line}"


def test_the_text_of_another_program_is_read():
    text = (
        "a dog,\n(wet:1.2) <lora:rex:0.8>\nNegative prompt: cat\nugly\nSteps: 20, Sampler: Euler a,"
        " Schedule type: Automatic, CFG scale: 7, Seed: 42, Size: 512x768, Model hash: 6ce0161689, "
        'Model: v1-5-pruned, Lora hashes: "rex: a1, toy: b2", Version: v1.10.1\n'
    )
    prompt, negative = "a dog,\n(wet:1.2) <lora:rex:0.8>", "cat\nugly"
    expected = Parameters(prompt, negative, 20, "Euler a", 7.0, 42, 512, 768, "v1-5-pruned")
    assert Parameters.from_infotext(text) == expected
    assert Parameters.from_infotext("Steps: 9") == Parameters(steps=9)


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        Parameters,
        *(words, words, counts, words, numbers, counts, counts, counts, words),
        concepts=st.lists(st.tuples(words, numbers), max_size=3).map(tuple),
    )
)
def test_every_parameter_survives_the_text(parameters):
    assert Parameters.from_infotext(parameters.to_infotext()) == parameters


@pytest.mark.parametrize(
    "text",
    ["", "a dog", "a dog: a good one", "x\nSteps: many", "x\nSteps: 5, Size: big", "Size: 1x2x3"]
    + ['Steps: 5, Concepts: "rex:much"', 'Seed: "', "\0", "Steps: 5, CFG scale: "],
)
def test_nonsense_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match=r"^.* holds no generation parameters \(.*\): expected .*"):
        Parameters.from_infotext(text)


@pytest.mark.parametrize("part", [" ", '"', "a", ",", ":", "\\", '"a', 'x:"'])
def test_no_text_takes_long_to_refuse(part):
    start = time.process_time()  # a busy machine does not count
    with pytest.raises(ValueError):
        Parameters.from_infotext(part * 200_000 + "x")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("prompt", ["plain", "süß", "犬 on the beach, 🐕", "two\r\nlines\n"])
def test_a_png_carries_its_parameters(tmp_path, prompt):
    path = tmp_path / "ü 1.png"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    save_png(Image.fromarray(noise), path, Parameters(prompt))
    assert read_parameters(path) == Parameters(prompt)
    assert np.array_equal(np.asarray(Image.open(path)), noise)
    chunk = b"tEXtparameters" if prompt.isascii() or prompt == "süß" else b"iTXtparameters"
    assert chunk in path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["ü 1.png"]


def test_pictures_without_parameters(tmp_path):
    save_png(plain("red"), str(tmp_path / "bare.png"))
    assert read_parameters(str(tmp_path / "bare.png")) is None
    plain("red").save(tmp_path / "photo.jpg")
    assert read_parameters(tmp_path / "photo.jpg") is None
    (tmp_path / "notes.png").write_text("hello")
    with pytest.raises(OSError):
        read_parameters(tmp_path / "notes.png")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "picture.png"
    save_png(plain("red"), path)
    before = path.read_bytes()
    with pytest.raises(OSError):
        save_png(Image.new("CMYK", (8, 8)), path)
    assert path.read_bytes() == before
    save_png(plain("blue"), path)
    assert Image.open(path).getpixel((0, 0)) == (0, 0, 255)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError):
        save_png(plain("red"), tmp_path / "absent" / "picture.png")


@pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX")
def test_the_mode_of_a_png_follows_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        save_png(plain("red"), tmp_path / "picture.png")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "picture.png").stat().st_mode) == 0o640


def test_size_text():
    sizes = {0: "0 bytes", 1: "1 byte", 812: "812 bytes", 1_000: "1.0 KB", 3_108: "3.1 KB"}
    sizes |= {999_949: "999.9 KB", 999_950: "1.0 MB", 1_234_567: "1.2 MB"}
    assert {size: size_text(size) for size in sizes} == sizes


def colours(picture: Image.Image) -> dict[tuple[int, int, int], int]:
    return {colour: count for count, colour in picture.getcolors(picture.width * picture.height)}


def test_grid_places_pictures_row_by_row():
    names = ["red", "lime", "blue", "yellow", "cyan"]
    picture = grid([plain(name, 48, 48) for name in names], columns=3)
    assert picture.size == (3 * 52 + 4, 2 * (52 + 2) + 4)
    places = [(4 + 52 * column, 4 + 54 * row) for row in (0, 1) for column in (0, 1, 2)]
    corners = [picture.getpixel(place) for place in places]
    assert corners[:5] == [plain(name).getpixel((0, 0)) for name in names]
    assert corners[5] == (255, 255, 255)
    assert grid([plain("red")] * 9).size == grid([plain("red")] * 9, columns=3).size


def test_grid_fits_pictures_into_their_cells():
    big = grid([plain("red", 400, 200)], cell=100)
    assert colours(big)[255, 0, 0] == 100 * 50
    small = grid([plain("red", 40, 20)], cell=100)
    assert colours(small)[255, 0, 0] == 80 * 40  # twice, not 2.5 times
    mixed = grid([plain("red", 30, 60), Image.new("L", (60, 60))])
    assert colours(mixed)[255, 0, 0] == 30 * 60


def test_captions_are_wrapped_to_the_width_of_the_cell():
    text = "a rather long prompt of a dog, andaverylongwordwithoutanyblankatallinit"
    plain_grid = grid([plain("white", 128, 128)] * 2, columns=2)
    picture = grid([plain("white", 128, 128)] * 2, columns=2, captions=[text, ""])
    assert picture.height > plain_grid.height + 30
    dark = np.asarray(picture.convert("L")) < 128
    assert dark[10 + 128 :].any()
    assert not dark[:, :10].any()
    assert not dark[:, 10 + 128 :].any()  # neither beside the cell nor under the other picture


def test_grid_refuses_no_images_and_missing_captions():
    with pytest.raises(ValueError, match="0 images and 0 captions: expected at least one image"):
        grid([])
    with pytest.raises(ValueError, match="2 images and 1 captions: expected .* a caption for each"):
        grid([plain("red")] * 2, captions=["one"])


@pytest.mark.parametrize(("photos", "scenes"), [(1, 1), (2, 3), (3, 4), (5, 8), (9, 5), (20, 12)])
def test_a_sheet_shows_everything_it_was_given(photos, scenes):
    picture = sheet(
        [plain("red", 90, 120)] * photos,
        "rex.safetensors",
        3_108,
        (plain("lime", 128, 128), "a photo of rex"),
        [(plain("blue", 128, 128), f"rex, number {n}") for n in range(scenes)],
        title="From photos to pictures",
    )
    found = colours(picture)
    assert found[0, 255, 0] == 256 * 256
    assert found[0, 0, 255] == scenes * 256 * 256
    assert found[255, 0, 0] % photos == 0
    assert found[255, 0, 0] >= 80 * 80 * photos
    left_to_right = [(255, 0, 0), (47, 95, 208), (0, 255, 0), (0, 0, 255)]  # the card is bluish
    columns = [(np.asarray(picture) == rgb).all(2).any(0).nonzero()[0] for rgb in left_to_right]
    assert all(a.max() < b.min() for a, b in zip(columns, columns[1:], strict=False))


def test_a_sheet_needs_photos_and_scenes():
    for photos, scenes in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match=f"{photos} photos and {scenes} scenes: expected"):
            scene = (plain("blue"), "")
            sheet([plain("red")] * photos, "rex.safetensors", 1, scene, [scene] * scenes)
