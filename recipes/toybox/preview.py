"""A grid of samples with their captions, to look at: python recipes/toybox/preview.py out.png"""

from __future__ import annotations

import sys
import textwrap

import numpy as np
from PIL import Image, ImageDraw
from world import World


def captioned_grid(pictures: list, captions: list[str], columns: int) -> Image.Image:
    """Pictures (PIL or uint8 arrays, 128 px) in a grid, each over its caption."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * 136, rows * 178), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, words) in enumerate(zip(pictures, captions, strict=True)):
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(picture)
        left, top = index % columns * 136 + 4, index // columns * 178 + 4
        sheet.paste(picture, (left, top))
        for line, text in enumerate(textwrap.wrap(words, 24)[:4]):
            draw.text((left, top + 129 + line * 10), text, fill="black", font_size=9)
    return sheet


def main() -> None:
    """Draw 60 samples."""
    rng, world = np.random.default_rng(5), World()
    samples = [world.sample(rng, 0.5) for _ in range(60)]
    grid = captioned_grid([s.picture for s in samples], [s.caption for s in samples], 10)
    grid.save(sys.argv[1])


if __name__ == "__main__":
    main()
