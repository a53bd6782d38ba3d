"""Toybox's world: composites of objects on backgrounds at 128 x 128, with captions.

`World(objects).sample(rng)` returns a `Sample`: the picture (128, 128, 3) uint8, the caption and
what it was made of. Deterministic for a given numpy Generator.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from captions import caption
from common import work_dir
from objects import TRAIN, ToyObject
from PIL import Image, ImageFilter
from scenes import COLOURS, PATTERNS, SCENES, SIDE, paint, two_colours

TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
STYLES = ("photo", "black and white", "pixel art", "pencil sketch")
STYLED = 0.09  # share of pictures in another style than "photo"
PAIRS = 0.45  # share of two objects, of pictures that are not simple
GROUND = ("beach", "grass", "snow", "night", "sunset")


@dataclass
class Placed:
    """One object in a picture: side and centre in px, angle in degrees, words for captions.

    hue is added to that of its colours (1: all around); stretch is its width over its height.
    """

    item: ToyObject
    side: float
    row: float
    column: float
    angle: float = 0.0
    mirrored: bool = False
    tint: str = ""
    size_word: str = ""
    side_word: str = ""
    turn_word: str = ""
    by_class: bool = False
    hue: float = 0.0
    stretch: float = 1.0


@dataclass
class Sample:
    """One picture and what it shows."""

    kind: str
    colours: tuple[str, ...]
    style: str
    things: list[Placed]
    picture: np.ndarray = field(default=None, repr=False)
    caption: str = ""


def recoloured(cut: Image.Image, hue: float) -> Image.Image:
    """An RGBA picture with its hues turned."""
    h, s, v = cut.convert("RGB").convert("HSV").split()
    h = h.point([round(i + 256 * hue) % 256 for i in range(256)])
    result = Image.merge("HSV", (h, s, v)).convert("RGB")
    result.putalpha(cut.getchannel("A"))
    return result


def tinted(rgb: np.ndarray, name: str) -> np.ndarray:
    """Recolour: the picture's brightness drives a black - colour - white scale; rgb in 0..255."""
    light = (rgb @ np.array([0.3, 0.59, 0.11], np.float32))[..., None] / 255
    paint_colour = np.array(COLOURS[name], np.float32)
    dark, bright = paint_colour * (light / 0.6), 255 - (255 - paint_colour) * (1 - light) / 0.4
    return np.where(light < 0.6, dark, bright)


def sketch(picture: Image.Image) -> Image.Image:
    """Pencil look: colour dodge of the grey picture with its blurred negative."""
    grey = picture.convert("L")
    base = np.asarray(grey, np.float32)
    blurred = np.asarray(grey.filter(ImageFilter.GaussianBlur(3)), np.float32)
    dodge = 255 * np.clip(base / (blurred + 1), 0, 1) ** 3
    return Image.fromarray((0.6 * dodge + 0.4 * (120 + base * 135 / 255)).astype(np.uint8))


def styled(array: np.ndarray, style: str) -> np.ndarray:
    """Apply a style to a float picture (128, 128, 3); returns uint8."""
    picture = Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))
    if style == "black and white":
        picture = picture.convert("L").convert("RGB")
    elif style == "pixel art":
        picture = picture.resize((32, 32), Image.BOX).quantize(24).convert("RGB")
        picture = picture.resize((SIDE, SIDE), Image.NEAREST)
    elif style == "pencil sketch":
        picture = sketch(picture).convert("RGB")
    return np.asarray(picture)


class World:
    """Renders samples of the given objects (training ones by default).

    Where `more` objects are given, a share `unnamed` of those drawn is one of them, or an object
    with other colours or proportions; captions call it by its class, or a thing.
    """

    def __init__(
        self,
        objects: tuple[ToyObject, ...] = TRAIN,
        more: tuple[ToyObject, ...] = (),
        unnamed: float = 0.0,
    ) -> None:
        folder = work_dir() / "objects"
        self.objects, self.more, self.unnamed = objects, more, unnamed
        self.cut = {item.slug: Image.open(folder / f"{item.slug}.png") for item in objects + more}
        for picture in self.cut.values():
            picture.load()

    def lay(self, canvas: np.ndarray, thing: Placed, shadow: bool) -> np.ndarray:
        """Draw one object on the canvas (128, 128, 3) float."""
        side = round(thing.side)
        cut = self.cut[thing.item.slug]
        if thing.mirrored:
            cut = cut.transpose(Image.FLIP_LEFT_RIGHT)
        if thing.hue:
            cut = recoloured(cut, thing.hue)
        size = round(side * min(1, thing.stretch)), round(side * min(1, 1 / thing.stretch))
        cut = cut.convert("RGBa").resize(size, Image.BILINEAR, reducing_gap=2)
        if thing.angle:
            cut = cut.rotate(thing.angle, Image.BILINEAR, expand=True)
        array = np.asarray(cut, np.float32)
        alpha = array[..., 3:] / 255
        colours = array[..., :3]
        if thing.tint:
            colours = tinted(colours / np.maximum(alpha, 1e-3), thing.tint) * alpha
        top = round(thing.row - array.shape[0] / 2)
        left = round(thing.column - array.shape[1] / 2)
        if shadow:
            rows = np.arange(SIDE, dtype=np.float32)[:, None] - (thing.row + side * 0.46)
            columns = np.arange(SIDE, dtype=np.float32)[None] - thing.column
            round_ = (rows / (side * 0.09)) ** 2 + (columns / (side * 0.42)) ** 2
            canvas = canvas * (1 - 0.35 * np.exp(-(round_**2)))[..., None]
        a, b = max(top, 0), min(top + array.shape[0], SIDE)
        c, d = max(left, 0), min(left + array.shape[1], SIDE)
        part = (slice(a - top, b - top), slice(c - left, d - left))
        canvas[a:b, c:d] = canvas[a:b, c:d] * (1 - alpha[part]) + colours[part]
        return canvas

    def render(self, rng: np.random.Generator, sample: Sample) -> np.ndarray:
        """Paint background, objects and style; returns (128, 128, 3) uint8."""
        canvas = paint(rng, sample.kind, sample.colours)
        for thing in sample.things:
            canvas = self.lay(canvas, thing, sample.kind in GROUND)
        return styled(canvas, sample.style)

    def place(self, rng: np.random.Generator, simple: bool, variety: float = 1.0) -> Placed:
        """One object, pose drawn at random.

        `simple` is the large centred pose; `variety` (0 to 1) is how far a pose varies of its kind.
        """
        item = self.objects[int(rng.integers(len(self.objects)))]
        row, column = 64 + variety * rng.normal(0, 2.5, 2)
        thing = Placed(item, 92 + variety * rng.uniform(-12, 12), row, column)
        thing.mirrored = bool(rng.random() < 0.15 * variety)
        thing.by_class = bool(rng.random() < 0.1)
        if rng.random() < 0.05 + 0.07 * variety:
            thing.tint = str(rng.choice(TINTS))
        if rng.random() < 0.12 * variety:
            thing.angle = float(rng.choice([-1, 1]) * rng.uniform(8, 22))
            thing.turn_word = "left" if thing.angle > 0 else "right"
        if simple:
            return thing
        draw = rng.random()
        if draw < 0.4:
            thing.side, thing.size_word = 51 + variety * rng.uniform(-7, 7), "small"
        elif draw < 0.6:
            thing.side, thing.size_word = 114 + variety * rng.uniform(-6, 6), "large"
        if thing.side < 90 and rng.random() < 0.6 or draw < 0.25:
            shift = float(rng.choice([-1, 1]))
            thing.side = min(thing.side, 78)
            thing.column += shift * min(29 + variety * rng.uniform(-5, 5), 66 - thing.side / 2)
            thing.side_word = "left" if shift < 0 else "right"
        return thing

    def unname(self, rng: np.random.Generator, thing: Placed) -> None:
        """Make it an object without a name: one of `more`, or itself with a changed look."""
        draw = rng.random()
        if draw < 0.75:
            thing.item = self.more[int(rng.integers(len(self.more)))]
        if draw > 0.55:
            thing.hue = float(rng.uniform(0.15, 0.85))
        if rng.random() < 0.3 or draw > 0.9:
            thing.stretch = float(np.exp(rng.uniform(-0.35, 0.35)))
        thing.by_class = bool(rng.random() < 0.6)
        if not thing.by_class:
            thing.item = replace(thing.item, name="thing")

    def draw(
        self,
        rng: np.random.Generator,
        simple: float = 0.7,
        variety: float = 1.0,
        styled: float = STYLED,
        pairs: float = PAIRS,
    ) -> Sample:
        """What the next picture shows; `simple`: share of single, large, centred objects;
        `styled`: of sketches, pixel art, and black and white; `pairs`: of two, among the others.
        """
        draw = rng.random()
        if draw < 0.5:
            kind, colours = "plain", (str(rng.choice(list(COLOURS))),)
            if rng.random() < 0.25:
                colours = ("white",)
        elif draw < 0.65:
            kind, colours = str(rng.choice(PATTERNS)), two_colours(rng)
        else:
            kind, colours = str(rng.choice(SCENES)), ()
        style = STYLES[int(rng.integers(1, 4))] if rng.random() < styled else "photo"
        things = [self.place(rng, rng.random() < simple, variety)]
        if rng.random() < (1 - simple) * pairs:
            things = [self.place(rng, True), self.place(rng, True)]
            for thing, column in zip(things, (32, 96), strict=True):
                thing.side = 64 + variety * rng.uniform(-4, 4)
                thing.column = column + variety * rng.normal(0, 2)
                thing.turn_word, thing.angle = "", 0.0
        if self.more:
            for thing in things:
                if rng.random() < self.unnamed:
                    self.unname(rng, thing)
        if kind in GROUND:
            for thing in things:
                thing.row += (SIDE - 6 - thing.side / 2 - thing.row) * (
                    0.65 + variety * rng.uniform(-0.25, 0.25)
                )
        return Sample(kind, colours, style, things)

    def sample(self, rng: np.random.Generator, *mix: float) -> Sample:
        """A random picture with its caption; `mix`: shares, as of `draw`."""
        sample = self.draw(rng, *mix)
        sample.picture = self.render(rng, sample)
        sample.caption = caption(rng, sample)
        return sample

    def reference(self, item: ToyObject) -> np.ndarray:
        """The reference render: the object large on white."""
        sample = Sample("plain", ("white",), "photo", [Placed(item, 100, 64, 64)])
        return self.render(np.random.default_rng(0), sample)
