"""Fetch the object pictures: Microsoft's Fluent 3D emoji (MIT), with their names (MIT).

Writes the pictures of the recipe's objects, trained on or held out, as 128-px-ready RGBA PNGs
to `<work>/objects/` and their SHA-256 to `inputs.json` beside this file.
Run: python recipes/toybox/fetch.py
"""

from __future__ import annotations

import json

from common import RECIPE, npm_package, sha256, work_dir, write_json
from objects import MORE, OBJECTS
from PIL import Image

PICTURES = ("@lobehub/fluent-emoji-3d", "1.1.0")
NAMES = ("unicode-emoji-json", "0.9.0")
SIDE = 160  # px, a little above the largest size an object is drawn at


def emoji_file(assets, emoji: str):
    """The asset of an emoji, whose file name is its code points with or without U+FE0F."""
    for text in (emoji, emoji.replace("\ufe0f", ""), emoji + "\ufe0f"):
        path = assets / ("-".join(f"{ord(char):x}" for char in text) + ".webp")
        if path.is_file():
            return path
    raise ValueError(f"The picture package has no picture of {emoji}.")


def fitted(picture: Image.Image) -> Image.Image:
    """Crop to the opaque part and centre it in a square of SIDE px."""
    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
    picture = picture.crop(box)
    scale = (SIDE - 4) / max(picture.size)  # a clear border, for smooth edges when turned
    size = [max(1, round(side * scale)) for side in picture.size]
    picture = picture.convert("RGBa").resize(size, Image.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    square.paste(picture, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def main() -> None:
    """Fetch both packages and write one PNG per object."""
    work = work_dir()
    assets = npm_package(*PICTURES, work) / "assets"
    names = json.loads((npm_package(*NAMES, work) / "data-by-emoji.json").read_text("utf-8"))
    by_slug = {entry["slug"]: emoji for emoji, entry in names.items()}
    folder = work / "objects"
    folder.mkdir(exist_ok=True)
    hashes = {}
    for item in OBJECTS + MORE:
        if item.slug not in by_slug:
            raise ValueError(f"The name package knows no emoji {item.slug!r}.")
        source = emoji_file(assets, by_slug[item.slug])
        hashes[item.slug] = sha256(source)
        target = folder / f"{item.slug}.png"
        if not target.is_file():
            fitted(Image.open(source)).save(target)
    archives = {path.name: sha256(path) for path in sorted(work.glob("*.tgz"))}
    write_json(RECIPE / "inputs.json", {"archives": archives, "pictures": hashes})
    print(f"{len(hashes)} pictures in {folder}")


if __name__ == "__main__":
    main()
