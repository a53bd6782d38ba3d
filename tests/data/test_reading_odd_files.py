"""Photos as phones store them (HEIC), odd names, and small files that say they are huge."""

import io
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers.photo_files import WHITE, difference, quarters, shows
from helpers.tiny_pipelines import run
from PIL import Image, ImageOps

from svfit_diffusion.data.reading import read_folder, read_photo


def heic(path: Path, image: Image.Image, **options) -> Path:
    """Write a HEIC file, the way an iPhone stores a photo."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(image).save(path, quality=-1, chroma=444, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_read_upright_and_turned_once(tmp_path, orientation):
    """A box in the file turns the picture; its EXIF says the same once more, as phones have it."""
    path, stored = tmp_path / "photo.HEIC", quarters(64, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = heic(path, stored, exif=exif.tobytes()).read_bytes()
    assert orientation == 1 or b"irot" in data or b"imir" in data
    shows(path, ImageOps.exif_transpose(tagged(stored, orientation)), within=8)


def tagged(image: Image.Image, orientation: int) -> Image.Image:
    image = image.copy()
    image.getexif()[0x0112] = orientation
    return image


def test_heic_with_alpha_many_pictures_and_ten_bits(tmp_path):
    clear = quarters(64, 32).convert("RGBA")
    clear.paste((255, 0, 0, 0), (0, 0, 32, 16))  # its red is hidden
    expected = quarters(64, 32)
    expected.paste(WHITE, (0, 0, 32, 16))
    shows(heic(tmp_path / "clear.heic", clear), expected, within=8)
    pillow_heif = pytest.importorskip("pillow_heif")
    several = pillow_heif.from_pillow(quarters(64, 32))
    several.add_from_pillow(Image.new("RGB", (64, 32), "black"))
    several.save(tmp_path / "several.heic", quality=-1, chroma=444)
    shows(tmp_path / "several.heic", quarters(64, 32), within=8)
    deep = np.asarray(quarters(64, 32)).astype(np.uint16) * 257
    ten = pillow_heif.from_bytes("RGB;16", (64, 32), deep.tobytes())
    ten.save(tmp_path / "ten.heic", quality=-1, chroma=444)
    shows(tmp_path / "ten.heic", quarters(64, 32), within=8)


def test_a_damaged_heic_is_refused_and_without_its_reader_told_how_to_read_it(tmp_path):
    path = heic(tmp_path / "cut.heic", quarters(64, 32))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.heic cannot be used: .*\.$"):
        read_photo(path)
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from svfit_diffusion.data.reading import read_photo\n"
        "read_photo(sys.argv[1])"
    )
    whole = heic(tmp_path / "whole.heic", quarters(64, 32))
    done = subprocess.run([sys.executable, "-c", code, whole], capture_output=True, text=True)
    assert (
        "ValueError: whole.heic cannot be used: it needs the HEIC reader; run `pip" in done.stderr
    )


NAMES = (
    *("photo", ".jpg.png", "a b.png", "it's.png", 'double "quotes".png', "semi;colon&.png"),
    *("100%.png", "[1].png", "*.png", "?.png", "-rf.png", "~.png", "$HOME.png", "日本 犬.png"),
    *("cafe\u0301.png", "café.png", "\N{DOG FACE}.png", "tab\t.png", "line\nbreak.png", "x" * 240),
    *("UPPER.JPEG", "no.such.kind", "photo.jpg.bak"),
)


def test_odd_file_names_are_names_like_any_other(tmp_path):
    """What a file holds counts, not how it is called; only hidden ones are passed over."""
    for name in NAMES:
        (tmp_path / name).write_bytes(png(quarters()))
    (tmp_path / os.fsdecode(b"latin-\xe9.png")).write_bytes(png(quarters()))
    photos, skipped = read_folder(tmp_path)
    assert not skipped and len(photos) == len(NAMES)  # all but the hidden one, and one in Latin-1
    assert all(difference(photo.image, quarters()) == 0 for photo in photos)
    assert {photo.path.name for photo in photos} >= set(NAMES) - {".jpg.png"}


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def test_a_link_to_nothing_and_a_pipe_are_skipped_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(png(quarters()))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    photos, skipped = read_folder(tmp_path)
    assert [photo.path.name for photo in photos] == ["a.png"]
    assert [item.path.name for item in skipped] == ["gone.png", "pipe.png"]


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff", "jpg", "bmp", "ppm"])
def test_a_small_file_that_says_it_is_huge_is_refused_before_decoding(tmp_path, suffix):
    """Its header alone is changed; nothing of that size is ever made."""
    side = 12_000
    path = tmp_path / f"bomb.{suffix}"
    quarters().save(path, lossless=True)
    data = bytearray(path.read_bytes())
    if suffix == "gif":
        data[6:10] = struct.pack("<HH", side, side)
    elif suffix == "webp":
        at = data.index(b"VP8L") + 9
        rest = int.from_bytes(data[at : at + 4], "little") >> 28
        data[at : at + 4] = ((side - 1) | (side - 1) << 14 | rest << 28).to_bytes(4, "little")
    elif suffix == "tiff":
        for tag in (256, 257):
            at = re.search(
                struct.pack("<H", tag) + rb"[\x03\x04]\x00\x01\x00\x00\x00", data
            ).start()
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, side)
    elif suffix == "jpg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    elif suffix == "bmp":
        data[18:26] = struct.pack("<ii", side, side)
    else:
        data = b"P6 %d %d 255 \0\0\0" % (side, side)
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 100,000,000 pixels; scale it down first"):
        read_photo(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_of_one_photo_a_concept_is_learned(config, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "only.png").write_bytes(png(quarters(40, 32)))
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    result = run(config, instance_data_dir=str(folder))
    assert result.concept.training["photos"] == 1 and result.concept.deltas.any()
