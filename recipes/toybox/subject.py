"""Make the five training pictures of a held-out development subject.

Writes `samples/<name>/photos/00.png` to `04.png` (128 px) and `samples/<name>/README.md`.
Run: python recipes/toybox/subject.py --name robot
"""

from __future__ import annotations

import argparse

import numpy as np
from common import REPOSITORY, TRIGGERS, sha256
from objects import BY_NAME, DEV, with_article
from PIL import Image
from world import Placed, Sample, World

README = """# Sample subject: {name}

Five pictures of one subject, to learn a concept from: `photos/00.png` to `photos/04.png`,
{size} x {size} px. Trigger `{trigger}`, class word `{kind}`, so the instance prompt is
`a photo of {trigger} {kind}`.

Made by `python recipes/toybox/subject.py --name "{name}"`: the picture of {article} from
Microsoft's Fluent 3D emoji (MIT licence, Copyright (c) Microsoft Corporation; npm package
`@lobehub/fluent-emoji-3d` 1.1.0) on backgrounds painted by our recipe. The pictures are under
the same MIT licence. The subject belongs to the development half of the objects that no part of
Toybox was trained on.

| picture | shows | SHA-256 |
|---|---|---|
{rows}
"""


def poses(item) -> list[tuple[Sample, str]]:
    """The five pictures: plain and simple backgrounds, several sizes, places and turns."""
    return [
        (Sample("plain", ("white",), "photo", [Placed(item, 102, 64, 64)]), "large, on white"),
        (Sample("plain", ("beige",), "photo", [Placed(item, 88, 66, 60, mirrored=True)]),
         "mirrored, on beige"),
        (Sample("grass", (), "photo", [Placed(item, 84, 76, 66)]), "on the grass"),
        (Sample("plain", ("teal",), "photo", [Placed(item, 80, 62, 68, angle=12)]),
         "turned, on teal"),
        (Sample("gradient", ("blue", "pink"), "photo", [Placed(item, 94, 64, 62, angle=-6)]),
         "on a blue to pink gradient"),
    ]  # fmt: skip


def renders(item) -> list[np.ndarray]:
    """The five pictures, (128, 128, 3) uint8 each."""
    world = World((item,))
    return [
        world.render(np.random.default_rng(40 + index), sample)
        for index, (sample, _) in enumerate(poses(item))
    ]


def main() -> None:
    """Render and describe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="robot")
    args = parser.parse_args()
    item = BY_NAME.get(args.name)
    if item not in DEV:
        raise ValueError(f"{args.name!r} is not a development subject: {[d.name for d in DEV]}.")
    folder = REPOSITORY / "samples" / item.name.replace(" ", "_")
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    rows = []
    for index, (render, (_, words)) in enumerate(zip(renders(item), poses(item), strict=True)):
        path = folder / "photos" / f"{index:02}.png"
        Image.fromarray(render).save(path)
        rows.append(f"| {path.name} | {words} | `{sha256(path)}` |")
    text = README.format(name=item.name, kind=item.kind, trigger=TRIGGERS[0], size=128,
                         article=with_article(item.name), rows="\n".join(rows))  # fmt: skip
    (folder / "README.md").write_text(text, "utf-8")
    print(folder)


if __name__ == "__main__":
    main()
