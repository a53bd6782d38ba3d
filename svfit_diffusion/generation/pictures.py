"""What people look at: PNGs that carry their parameters, contact sheets, the story in one picture.

The parameters travel as the text that AUTOMATIC1111's web UI writes and other UIs read:
`prompt`, `Negative prompt: ...` and `Steps: 25, Sampler: Euler, CFG scale: 5.0, ...`, a line each.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from ..concept import atomic_write

_INK, _GREY, _ACCENT = "#1f2328", "#8c959f", "#2f5fd0"
_TILE, _SIGN = 256, 64  # widths on the sheet, in pixels: of a picture, of the sign between two

_NEGATIVE = "Negative prompt:"
_QUOTED = r'"(?:\\.|[^"\\])*+"'  # `*+` gives nothing back: no text takes long to refuse
_PAIR = re.compile(rf"\s*+({_QUOTED}|[^\",:]++):\s*+({_QUOTED}(?=,|$)|[^,]*+)(?:,|$)")


@dataclass(frozen=True)
class Parameters:
    """All it takes to make a picture again.

    guidance: classifier-free guidance scale. width, height: pixels. concepts: (name, strength) of
    each, strength 0 = base, 1 = as trained.
    """

    prompt: str = ""
    negative_prompt: str = ""
    steps: int = 25
    sampler: str = ""
    guidance: float = 5.0
    seed: int = 0
    width: int = 512
    height: int = 512
    base: str = ""
    concepts: tuple[tuple[str, float], ...] = ()

    def to_infotext(self) -> str:
        """The text for the PNG; `from_infotext` gives back these parameters exactly."""
        fields = {
            "Steps": self.steps,
            "Sampler": self.sampler,
            "CFG scale": float(self.guidance),
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
            "Model": self.base,
            "Concepts": ", ".join(f"{_quote(name)}:{value}" for name, value in self.concepts),
        }
        # A backslash marks these words inside a prompt, where no line starts with them.
        text = self.prompt.replace(_NEGATIVE, f"\\{_NEGATIVE}")
        if self.negative_prompt:
            text += f"\n{_NEGATIVE} " + self.negative_prompt.replace(_NEGATIVE, f"\\{_NEGATIVE}")
        settings = (
            f"{name}: {_quote(str(value))}" for name, value in fields.items() if value != ""
        )
        return f"{text}\n{', '.join(settings)}"

    @classmethod
    def from_infotext(cls, text: str) -> Parameters:
        """Read such a text, ours or another UI's; fields it lacks take their defaults.

        Raises ValueError when the last line has no known name or a value of the wrong kind.
        """
        prompts, _, last = text.rstrip().rpartition("\n")
        prompt, _, negative = f"\n{prompts}".partition(f"\n{_NEGATIVE}")
        try:
            found = dict(_pairs(last))
            if not found.keys() & {"Steps", "Seed", "Size", "Model"}:
                raise ValueError("no known name")
            width, height = found.get("Size", f"{cls.width}x{cls.height}").split("x")
            return cls(
                prompt.removeprefix("\n").replace(f"\\{_NEGATIVE}", _NEGATIVE),
                negative.removeprefix(" ").replace(f"\\{_NEGATIVE}", _NEGATIVE),
                int(found.get("Steps", cls.steps)),
                found.get("Sampler", cls.sampler),
                float(found.get("CFG scale", cls.guidance)),
                int(found.get("Seed", cls.seed)),
                int(width),
                int(height),
                found.get("Model", cls.base),
                tuple((name, float(v)) for name, v in _pairs(found.get("Concepts", ""))),
            )
        except ValueError as error:
            raise ValueError(
                f"{last[:200]!r} holds no generation parameters ({error}): expected a last line "
                "such as `Steps: 25, Seed: 1`; use a picture saved with its parameters."
            ) from error


def _quote(value: str) -> str:
    plain = value and value == value.strip() and not re.search(r'[,:"\n]', value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split `name: value, name: value`, up to the first part that is no such pair."""
    pairs, position = [], 0
    while match := _PAIR.match(text, position):
        name, value = (json.loads(x) if x[:1] == '"' else x.strip() for x in match.groups())
        pairs.append((name, value))
        position = match.end()
    return pairs


def save_png(image: Image.Image, path: str | Path, parameters: Parameters | None = None) -> None:
    """Write a PNG with its parameters: at any time the old file is there or the new, whole.

    Raises OSError where the folder does not exist or cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    if parameters is not None:
        info.add_text("parameters", parameters.to_infotext())
    with atomic_write(path) as fresh:
        image.save(fresh, format="PNG", pnginfo=info)


def read_parameters(path: str | Path) -> Parameters | None:
    """The parameters a picture carries, None if it carries none.

    Raises OSError when the file is no picture, ValueError when the parameters make no sense.
    """
    with Image.open(path) as image:
        text = image.info.get("parameters")
    return None if text is None else Parameters.from_infotext(text)


def size_text(size: int) -> str:
    """Bytes as people say them, 1 KB = 1,000 bytes: 812 bytes, 3.1 KB, 1.2 MB, 4.1 GB."""
    if size < 1_000:
        return "1 byte" if size == 1 else f"{size} bytes"
    if size < 999_950:
        return f"{size / 1e3:.1f} KB"
    return f"{size / 1e6:.1f} MB" if size < 999_950_000 else f"{size / 1e9:.1f} GB"


def grid(
    images: Sequence[Image.Image],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    cell: int | None = None,
) -> Image.Image:
    """Contact sheet: each picture in a square of `cell` pixels (default: the longest side there
    is) with its caption below, row by row (default: about as many columns as rows).

    Smaller pictures are enlarged by whole factors only. Raises ValueError when there are no
    images, or not one caption for each.
    """
    captions = [""] * len(images) if captions is None else captions
    if not images or len(captions) != len(images):
        raise ValueError(
            f"A grid was given {len(images)} images and {len(captions)} captions: expected at "
            "least one image, and a caption for each or none at all; pass lists of equal length."
        )
    cell = cell or max(max(image.size) for image in images)
    columns = columns or math.ceil(math.sqrt(len(images)))
    gap = max(4, cell // 12)
    texts = [_text(caption, cell, max(11, cell // 10)) for caption in captions]
    step = cell + gap, cell + gap + gap // 2 + max(text.height for text in texts)
    size = columns * step[0] + gap, math.ceil(len(images) / columns) * step[1] + gap
    canvas = Image.new("RGB", size, "white")
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = gap + index % columns * step[0], gap + index // columns * step[1]
        side = cell // max(image.size) * max(image.size) or cell
        picture = ImageOps.contain(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
        canvas.paste(picture, (x + (cell - picture.width) // 2, y + (cell - picture.height) // 2))
        canvas.paste(text, (x, y + cell + gap // 2))
    return canvas


def sheet(
    photos: Sequence[Image.Image],
    file_name: str,
    file_bytes: int,
    base_picture: tuple[Image.Image, str],
    scenes: Sequence[tuple[Image.Image, str]],
    title: str = "",
) -> Image.Image:
    """The story in one picture: photos > the file they became + the base = what the two generate.

    base_picture, scenes: pictures with their prompts. Raises ValueError without photos or scenes.
    """
    if not photos or not scenes:
        found = f"{len(photos)} photos and {len(scenes)} scenes"
        raise ValueError(f"A sheet was given {found}: expected at least one of each; pass both.")
    pictures, prompts = zip(*scenes, strict=True)
    narrow = math.ceil(math.sqrt(len(photos) / 1.5))
    wide = len(scenes) if len(scenes) < 4 else min(4, math.ceil(len(scenes) / 2))
    squares = [ImageOps.fit(photo, (min(_TILE, 360 // narrow),) * 2) for photo in photos]
    blocks = {
        f"{len(photos)} photos" if len(photos) > 1 else "1 photo": grid(squares, narrow),
        "one small file": _card(file_name, file_bytes),
        "the base alone": grid(base_picture[:1], 1, base_picture[1:], _TILE),
        "both together": grid(pictures, wide, prompts, _TILE),
    }
    height = max(block.height for block in blocks.values())
    width = 5 * _SIGN + sum(block.width for block in blocks.values())
    heading = _text(title, width, 44)
    top = 30 + heading.height
    canvas = Image.new("RGB", (width, top + 60 + height + 12), "white")
    canvas.paste(heading, (0, 20))
    x = 0
    for sign, (name, block) in zip(" >+=", blocks.items(), strict=True):
        canvas.paste(_text(sign, _SIGN, 60, _GREY), (x, top + 60 + height // 2 - 40))
        canvas.paste(_text(name, block.width, 28), (x + _SIGN, top + 20))
        canvas.paste(block, (x + _SIGN, top + 60 + (height - block.height) // 2))
        x += _SIGN + block.width
    return canvas


def _card(name: str, size: int) -> Image.Image:
    """A page with a folded corner that bears a file's size and name."""
    card = Image.new("RGB", (_TILE, 320), "white")
    page = [(18, 10), (190, 10), (238, 58), (238, 310), (18, 310)]
    ImageDraw.Draw(card).polygon(page, outline=_ACCENT, width=4)
    ImageDraw.Draw(card).line([(190, 10), (190, 58), (238, 58)], _ACCENT, 4)
    card.paste(_text(size_text(size), 200, 42, _ACCENT), (28, 125))
    card.paste(_text(name, 200, 19), (28, 195))
    return card


def _text(text: str, width: int, size: int, colour: str = _INK) -> Image.Image:
    """Text of `size` pixels in up to four lines, centred in a picture `width` pixels wide."""
    font = ImageFont.load_default(size)

    def unfit(lines: list[str]) -> tuple[bool, int, int, float]:
        widest = max(map(font.getlength, lines), default=0)
        letters = "".join("".join(lines).rstrip("…").split())
        return widest > width, -len(letters), len(lines), widest  # the last: no lonely words

    lengths = range(1, 4 * width // size + 2)  # in letters
    wraps = (textwrap.wrap(text, length, max_lines=4, placeholder="…") for length in lengths)
    lines = min(wraps, key=unfit)
    canvas = Image.new("RGB", (width, math.ceil(1.25 * size * len(lines))), "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((width / 2, 1.25 * size * row), line, colour, font, "ma")
    return canvas
