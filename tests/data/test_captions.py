"""captions.py: whatever a caption's file is called, it goes to its photo or is named."""

import unicodedata

import pytest
from helpers.photo_files import quarters

from svfit_diffusion.data import read_folder
from svfit_diffusion.web.studio.photos import inspect_photos


def captions(folder, **given):
    photos, skipped = read_folder(folder, **given)
    return {p.path.name: p.caption for p in photos}, [s.reason for s in skipped]


def save(folder, *names):
    for name in names:
        quarters().save(folder / name)


@pytest.mark.parametrize(
    ("photo", "text"),
    [
        ("IMG_1.png", "IMG_1.TXT"),
        ("IMG_1.png", "IMG_1.Txt"),
        ("a.png", "a.png.txt"),
        ("Rex.PNG", "rex.txt"),
        (unicodedata.normalize("NFD", "café.png"), unicodedata.normalize("NFC", "café.txt")),
        (unicodedata.normalize("NFC", "Ärger.png"), unicodedata.normalize("NFD", "ärger.PNG.TXT")),
    ],
)
def test_a_caption_is_found_by_the_command_line_and_by_the_page(tmp_path, photo, text):
    save(tmp_path, photo)
    (tmp_path / text).write_text("sks on a chair")
    assert captions(tmp_path) == ({photo: "sks on a chair"}, [])
    found = inspect_photos([str(p) for p in sorted(tmp_path.iterdir())], 64, center=True)
    assert [caption for _, caption in found.crops] == ["1 (tiny, 32 x 16 px) sks on a chair"]
    assert not found.refused


def test_what_belongs_to_no_photo_is_named(tmp_path):
    save(tmp_path, "a.png")
    for name, text in {"a.txt": "one", "A.TXT": "two", "b.txt": "three"}.items():
        (tmp_path / name).write_text(text)
    found, reasons = captions(tmp_path)
    assert found == {"a.png": "one"} and len(reasons) == 2
    assert "A.TXT is not used: a.txt is the caption of a.png." in reasons
    assert "b.txt is no photo's caption; name it like its photo." in reasons


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_of_the_hubs_image_folder(tmp_path, name):
    save(tmp_path, "a.png", "b.png", "c.png")
    rows = [("A.png", "sks one"), ("b.png", "sks two, red"), ("gone.png", "three")]
    if name.endswith("csv"):
        lines = ["file_name,text", *(f'{file},"{text}"' for file, text in rows)]
    else:
        lines = [f'{{"file_name": "{file}", "text": "{text}"}}' for file, text in rows]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    (tmp_path / "b.txt").write_text("sks beside")
    found, reasons = captions(tmp_path)
    assert found == {"a.png": "sks one", "b.png": "sks beside", "c.png": None}
    assert reasons == [f"{name} has rows of photos that are not here: gone.png."]


def test_a_column_of_another_name_is_asked_for(tmp_path):
    save(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "says": "sks"}')
    with pytest.raises(ValueError, match="no column text or caption or prompt, but file_name, say"):
        captions(tmp_path)
    assert captions(tmp_path, caption_column="says")[0] == {"a.png": "sks"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"{", "line 1 of .* is no JSON object"), (b"\xff", "not UTF-8"), (b"[" * 90_000, "no JSON"),
     (b'{"text": "x"}', "has no file_name in row 1"), (b" " * 10_000_001, "more than 10,000,000")],
)  # fmt: skip
def test_metadata_that_cannot_be_read(tmp_path, text, reason):
    save(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(text)
    with pytest.raises(ValueError, match=reason):
        captions(tmp_path)
