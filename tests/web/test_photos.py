"""web.studio.photos: what the model sees of uploaded photos, and which files are refused."""

from importlib.resources import files

import pytest
from PIL import Image, ImageFilter

from svfit_diffusion.data.reading import read_folder
from svfit_diffusion.training.subject import sample_folder
from svfit_diffusion.web.studio.photo_edits import MAX_ZOOM, read_edits
from svfit_diffusion.web.studio.photo_marks import PhotoMarks
from svfit_diffusion.web.studio.photos import (
    caption_of,
    inspect_photos,
    preview_photo,
    save_photos,
)


def test_photos_are_shown_as_the_model_sees_them_and_bad_files_are_named(tmp_path):
    upright = Image.new("RGB", (40, 80), "blue")
    upright.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned left for viewing
    upright.rotate(-90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.new("RGB", (64, 64), "green").save(tmp_path / "square.png")
    (tmp_path / "notes.jpg").write_text("no picture")
    paths = [str(tmp_path / name) for name in ("turned.jpg", "notes.jpg", "square.png")]
    found = inspect_photos(paths, 32)
    assert [caption for _, caption in found.crops] == [
        "1 top",
        "1 middle",
        "1 bottom",
        "2 (black or empty)",
    ]
    top, bottom = found.crops[0][0].getpixel((16, 16)), found.crops[2][0].getpixel((16, 16))
    assert top[0] > 200 > top[2] and bottom[2] > 200 > bottom[0]
    assert len(found.refused) == 1 and "notes.jpg" in found.refused[0]
    assert len(inspect_photos(paths, 32, center=True).crops) == 2
    assert save_photos(paths, tmp_path / "kept") == 2
    assert [p.name for p in sorted((tmp_path / "kept").iterdir())] == ["000.png", "001.png"]
    assert not Image.open(tmp_path / "kept" / "000.png").getexif()


def test_captions_go_with_their_photos_wherever_they_were_uploaded_to(tmp_path):
    for place, name, content in (
        ("0", "wide.jpg", None),
        ("1", "square.png", None),
        ("2", "square.txt", "  a photo of sks dog at night\n"),
        ("3", "wide.txt", "\ufeffeine süße sks Katze"),
        ("4", "alone.txt", "of no photo"),
    ):
        path = tmp_path / place / name
        path.parent.mkdir()
        if content is None:
            Image.new("RGB", (32 if name == "square.png" else 64, 32), "green").save(path)
        else:
            path.write_text(content, "utf-8")
    paths = sorted(str(path) for path in tmp_path.glob("*/*"))
    found = inspect_photos(paths, 32)
    assert found.crops[-1][1] == "2 (black or empty) a photo of sks dog at night"
    assert found.refused == ["alone.txt is no photo's caption; name it like its photo."]
    assert save_photos(paths, tmp_path / "kept") == 2
    photos, skipped = read_folder(tmp_path / "kept")
    assert [photo.caption for photo in photos] == [
        "eine süße sks Katze",
        "a photo of sks dog at night",
    ]
    assert not skipped
    (tmp_path / "3" / "wide.txt").write_bytes(b"\xff\xfe")
    assert "wide.txt is not UTF-8" in inspect_photos(paths, 32).refused[0]
    assert save_photos(paths, tmp_path / "again") == 2, (
        "a caption that cannot be read costs no photo"
    )


def test_photos_that_are_better_left_out_are_marked():
    with Image.open(str(files("gradio") / "media_assets" / "images" / "lion.jpg")) as opened:
        lion = opened.convert("RGB")
    sample = [Image.open(path).convert("RGB") for path in sorted(sample_folder().glob("*.png"))]
    marks = PhotoMarks(128)
    assert [marks.mark(photo) for photo in (lion, *sample)] == [""] * 6
    blur = ImageFilter.GaussianBlur(max(lion.size) * 0.01)
    assert PhotoMarks(128).mark(lion.filter(blur)) == "blurred"
    assert marks.mark(lion.resize((lion.width // 2, lion.height // 2))) == "same as photo 1"
    assert marks.mark(Image.new("RGB", (512, 512), "black")) == "black or empty"
    assert marks.mark(lion.resize((60, 40))) == "tiny, 60 x 40 px"


def board(tmp_path, *names):
    """Photos of four colours, one in each corner, and their paths."""
    image = Image.new("RGB", (80, 40))
    for number, colour in enumerate(("red", "lime", "blue", "white")):
        image.paste(colour, (number % 2 * 40, number // 2 * 20, 80, 40))
    for name in names:
        image.save(tmp_path / name)
    return [str(tmp_path / name) for name in names]


def test_what_is_cropped_on_the_page_is_what_is_trained_on(tmp_path):
    first, second = paths = board(tmp_path, "a.png", "b.png")
    edits = read_edits({first: {"zoom": 2, "x": 1, "y": 0}})
    found = inspect_photos(paths, 16, True, edits)
    assert found.owners == [0, 1]
    assert found.crops[0][0].getcolors() == [(256, (0, 255, 0))], "a square of 20 at the right"
    assert preview_photo(first, 16, edits[first]).tobytes() == found.crops[0][0].tobytes()
    assert save_photos(paths, tmp_path / "kept", edits) == 2
    kept = [Image.open(tmp_path / "kept" / f"{number:03d}.png") for number in range(2)]
    assert [picture.size for picture in kept] == [(20, 20), (80, 40)]
    assert kept[0].getcolors() == [(400, (0, 255, 0))]
    long = inspect_photos(paths, 16, False, read_edits({second: {"x": 0}}))
    assert long.owners == [0, 0, 0, 1], "a place that was chosen is the only one"


def test_captions_of_the_page_go_before_those_of_files_and_those_before_guesses(tmp_path):
    paths = board(tmp_path, *(f"{name}.png" for name in "abcd"))
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"in the file of {name}")
    texts = [str(tmp_path / f"{name}.txt") for name in "abc"]
    edits = {paths[0]: {"caption": "a photo of {} at night"}, paths[1]: {"caption": " "}}
    guesses = {path: "a photo of {} on a red background" for path in paths}
    held = read_edits(edits, guesses)
    save_photos([*paths, *texts], tmp_path / "kept", held, "rexkuv dog")
    photos, _ = read_folder(tmp_path / "kept")
    assert [photo.caption for photo in photos] == [
        "a photo of rexkuv dog at night",
        None,
        "in the file of c",
        "a photo of rexkuv dog on a red background",
    ]
    assert [caption_of(path, [*paths, *texts], held[path]) for path in paths] == [
        "a photo of {} at night",
        "",
        "in the file of c",
        "a photo of {} on a red background",
    ]


def test_edits_may_come_from_anyone(tmp_path):
    (path,) = board(tmp_path, "a.png")
    (edit,) = read_edits({path: {"zoom": 1e9, "x": -5, "y": "0.25"}}).values()
    assert (edit.zoom, edit.x, edit.y) == (MAX_ZOOM, 0, 0.25)
    assert read_edits(None) == {}
    nan = {"zoom": float("nan")}
    for bad in ([path], {path: []}, {path: {"caption": 3}}, {path: {"zoom": None}}, {path: nan}):
        with pytest.raises(ValueError, match="drop the photos again"):
            read_edits(bad)
