"""Each kind of file a phone, a scanner or a stranger hands over, against the picture it shows."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.photo_files import BLUE, GREEN, RED, WHITE, difference, quarters, shows
from PIL import Image, ImageCms

from svfit_diffusion.data.reading import crop, read_folder, read_photo, to_tensor


def raw_png(path: Path, depth: int, colour: int, rows: list[bytes], width: int, key=None) -> Path:
    """Write a PNG sample by sample, for the kinds that Pillow reads but cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        length, checksum = len(data), zlib.crc32(name + data)
        return struct.pack(">I", length) + name + data + struct.pack(">I", checksum)

    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))]
    if key is not None:
        chunks.append(chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    chunks.append(chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    turn = Image.Transpose
    undo = {  # 6 is shown turned right by 90 degrees, so stored turned left
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }  # fmt: skip
    stored = quarters().transpose(undo[orientation]) if orientation > 1 else quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    stored.save(path, exif=exif, quality=100, lossless=True, subsampling=0)
    shows(path, quarters(), within=8 if suffix == "jpg" else 0)


def test_cmyk_palette_and_grey(tmp_path):
    for name, mode in {"a.jpg": "CMYK", "a.tiff": "CMYK", "a.png": "P"}.items():
        quarters().convert(mode).save(tmp_path / name, quality=100)
        shows(tmp_path / name, quarters(), within=8 if name == "a.jpg" else 0)
    for mode in ("L", "1"):
        grey = quarters().convert(mode)
        grey.save(tmp_path / "grey.png")
        shows(tmp_path / "grey.png", grey.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparent_parts_are_white_and_half_transparent_ones_mixed(tmp_path, mode, suffix):
    picture = Image.new(mode, (3, 1))
    picture.putdata([(0,) * (len(mode) - 1) + (alpha,) for alpha in (0, 128, 255)])
    path = tmp_path / f"photo.{suffix}"
    picture.save(path, lossless=True, exact=True)
    shows(path, [[WHITE, (127, 127, 127), (0, 0, 0)]])


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\x80"])
def test_transparent_palette_entries_hide_their_colour(tmp_path, transparency):
    picture = Image.new("P", (3, 1))
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / "photo.png", transparency=transparency)
    last = BLUE if transparency == 1 else (127, 127, 255)
    shows(tmp_path / "photo.png", [[RED, WHITE, last]])


def test_a_transparent_colour_is_hidden_at_every_depth(tmp_path):
    path = tmp_path / "photo.png"
    grey16 = struct.pack(">3H", 0x1234, 0x8000, 0xFFFF)
    shows(raw_png(path, 16, 0, [grey16], 3, key=[0x1234]), [[WHITE, (128,) * 3, WHITE]])
    rgb16 = struct.pack(">6H", 0x1234, 0x8000, 0x4321, 0xFF00, 0, 0x8000)
    shows(raw_png(path, 16, 2, [rgb16], 2, key=[0x1234, 0x8000, 0x4321]), [[WHITE, (255, 0, 128)]])
    shows(raw_png(path, 2, 0, [b"\x1b"], 4, key=[1]), [[[0] * 3, WHITE, [170] * 3, WHITE]])
    shows(raw_png(path, 4, 0, [b"\x4a"], 2, key=[4]), [[WHITE, [170] * 3]])
    shows(raw_png(path, 1, 0, [b"\x40"], 2, key=[0]), [[WHITE, WHITE]])


def test_16_bit_samples_are_scaled_and_not_saturated(tmp_path):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for name in ("grey.png", "grey.tiff", "grey.pgm"):
        Image.fromarray(ramp * 257).save(tmp_path / name)
        shows(tmp_path / name, np.stack([ramp] * 3, axis=2))
    colour = struct.pack(">6H", 0x1000, 0x8000, 0xFFFF, 0, 0xFF00, 0x2000)
    shows(raw_png(tmp_path / "rgb.png", 16, 2, [colour], 2), [[(16, 128, 255), (0, 255, 32)]])


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = {"save_all": True, "append_images": [Image.new("RGB", (32, 16), "black")]}
    for name in ("moving.gif", "moving.webp", "moving.png", "pages.tiff"):
        quarters().save(tmp_path / name, lossless=True, **frames)
        shows(tmp_path / name, quarters())


def test_a_colour_profile_is_applied_and_a_broken_one_ignored(tmp_path):
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    quarters().save(tmp_path / "own.png", icc_profile=own)
    shows(tmp_path / "own.png", quarters(), within=1)
    # A screen whose red lamp glows green and the other way round.
    swapped = own.replace(b"rXYZ", b"TEMP").replace(b"gXYZ", b"rXYZ").replace(b"TEMP", b"gXYZ")
    exchanged = Image.merge("RGB", [quarters().getchannel(band) for band in "GRB"])
    for mode in ("RGB", "P", "RGBA"):
        quarters().convert(mode).save(tmp_path / "swapped.png", icc_profile=swapped)
        shows(tmp_path / "swapped.png", exchanged, within=3)
    lab = Image.new("LAB", (4, 4), (138, 209, 198))  # the red of sRGB
    lab.save(tmp_path / "lab.tiff")
    shows(tmp_path / "lab.tiff", Image.new("RGB", (4, 4), RED), within=5)
    quarters().save(tmp_path / "broken.png", icc_profile=b"no profile")
    shows(tmp_path / "broken.png", quarters())
    quarters().convert("L").save(tmp_path / "unfit.png", icc_profile=own)
    shows(tmp_path / "unfit.png", quarters().convert("L").convert("RGB"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be used: .*\.$"):
        read_photo(path)


@pytest.mark.parametrize("side", [10_001, 30_000])  # below and above Pillow's own limit
def test_a_decompression_bomb_is_refused_before_decoding(tmp_path, side):
    path = raw_png(tmp_path / "bomb.png", 8, 0, [b""] * side, side)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="100,000,000 pixels; scale"):
        warnings.simplefilter("error")
        read_photo(path)


def test_other_refusals_say_what_to_do(tmp_path):
    (tmp_path / "notes.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "phone.heic").write_bytes(b"broken")
    for name, mode in {"float.tiff": "F", "deep.tiff": "I"}.items():
        Image.new(mode, (2, 2), 70_000).save(tmp_path / name)
    for reason, names in {
        "it is no picture in a known format; save": ["notes.jpg", "empty.png", "drawing.eps"],
        "it .* as JPEG": ["phone.heic"],
        "its samples have 32 bits; save it with 8 or 16 bits": ["float.tiff", "deep.tiff"],
        "there is no such file; check the path": ["absent.jpg", "folder.png"],
    }.items():
        for name in names:
            with pytest.raises(ValueError, match=f"^{name} cannot be used: {reason}"):
                read_photo(tmp_path / name)


def test_captions_come_from_the_text_beside_the_photo(tmp_path):
    for name in ("a.png", "b.png", "c.v2.png", "d.png"):
        quarters().save(tmp_path / name)
    (tmp_path / "a.txt").write_bytes("\ufeff  ein Stofftier, süß \r\n".encode())
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.v2.txt").write_text("a toy")
    found = read_folder(tmp_path)[0]
    assert [photo.caption for photo in found] == ["ein Stofftier, süß", None, "a toy", None]
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe")
    assert "d.txt is not UTF-8" in read_folder(tmp_path)[1][0].reason
    (tmp_path / "d.txt").write_text("a toy " * 2_000)
    assert "d.txt has more than 10,000 bytes" in read_folder(tmp_path)[1][0].reason


def test_a_mixed_folder(tmp_path):
    for name in ("b.png", "a ü 犬.png", "Z.JPG", ".hidden.png"):
        quarters().save(tmp_path / name)
    for name in (".DS_Store", "._b.png", "orphan.txt", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"\0\1")
    (tmp_path / "more.png").mkdir()
    photos, skipped = read_folder(str(tmp_path))
    assert [photo.path.name for photo in photos] == ["Z.JPG", "a ü 犬.png", "b.png"]
    named = [(item.path.name, item.reason.split()[0]) for item in skipped]
    assert named == [("Thumbs.db", "Thumbs.db"), ("orphan.txt", "orphan.txt")]


def test_folders_without_photos_are_refused(tmp_path):
    for path, problem in ((tmp_path / "absent", "does not exist"), (__file__, "is a file")):
        with pytest.raises(ValueError, match=f"{problem}: expected a folder of photos"):
            read_folder(path)
    with pytest.raises(ValueError, match="put the photos directly into this folder"):
        read_folder(tmp_path)
    for stem in "abcd":
        (tmp_path / f"{stem}.doc").write_text("x")
    with pytest.raises(ValueError, match=r"^.*no usable photo: .*a\.doc.*b\.doc((?!d\.doc).)*$"):
        read_folder(tmp_path)


@pytest.mark.parametrize("box", [(64, 16), (16, 64)])
def test_crop_places_the_square_along_the_longer_side(box):
    picture = Image.new("RGB", box, RED)
    picture.paste(BLUE, (box[0] // 2, 0, *box) if box[0] > box[1] else (0, box[1] // 2, *box))
    for place, colour in ((0, RED), (1, BLUE)):
        square = crop(picture, 16, center=False, x=place, y=place)
        assert square.getcolors() == [(256, colour)]
    middle = crop(picture, 16, x=0, y=0)  # centred, whatever x and y are
    assert (middle.getpixel((0, 0)), middle.getpixel((15, 15))) == (RED, BLUE)


def test_crop_is_lanczos_of_the_whole_photo():
    noise = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    whole = Image.fromarray(noise).resize((48, 24), Image.Resampling.LANCZOS)
    assert difference(crop(Image.fromarray(noise), 24), whole.crop((12, 0, 36, 24))) <= 1
    assert crop(Image.new("RGB", (1, 60_000)), 512).size == (512, 512)


@pytest.mark.parametrize("resolution", [0, -8, 100, 64.0, "64", True])
def test_crop_refuses_other_resolutions_and_places(resolution):
    with pytest.raises(ValueError, match="expected a positive multiple of 8"):
        crop(quarters(), resolution)
    for place in ({"x": 1.1}, {"y": -0.1}, {"x": float("nan")}):
        with pytest.raises(ValueError, match="two numbers from 0 to 1"):
            crop(quarters(), 8, center=False, **place)


def test_to_tensor_keeps_rows_columns_and_channels():
    tensor = to_tensor(quarters())
    assert (tensor.shape, tensor.dtype) == ((3, 16, 32), torch.float32)
    corners = tensor[:, [0, 0, -1], [0, -1, 0]]  # red, green, blue
    assert corners.T.tolist() == [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
