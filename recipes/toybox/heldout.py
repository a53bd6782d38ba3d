"""Check that held-out objects have no look-alike among the training objects.

For each held-out object: its nearest training object by EfficientNet-Lite0 features of the
reference renders (cosine similarity). Writes `heldout.json` beside this file.
Run: python recipes/toybox/heldout.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import write_json
from objects import HELD_OUT, MORE, OBJECTS, TRAIN
from PIL import Image
from world import World

from svfit_diffusion.evaluation.features import EfficientNetLite0

LIMIT = 0.7445  # similarity of an unnamed training object to a held-out one, at most


def main() -> None:
    """Print and store the nearest training neighbours of every held-out object."""
    world, judge = World(OBJECTS + MORE), EfficientNetLite0()
    feature = {
        group: judge.features([Image.fromarray(world.reference(item)) for item in items])
        for group, items in (("train", TRAIN), ("more", MORE), ("out", HELD_OUT))
    }
    among = feature["train"] @ feature["train"].T
    among.fill_diagonal_(-1)
    usual = among.max(1).values.numpy()
    across = feature["out"] @ feature["train"].T
    rows = []
    for item, row in zip(HELD_OUT, across, strict=True):
        value, index = row.topk(3)
        near = [[TRAIN[i].name, round(float(v), 3)] for i, v in zip(index, value, strict=True)]
        rows.append({"split": item.split, "cluster": item.cluster, "name": item.name,
                     "nearest_training": near})  # fmt: skip
        print(f"{item.split:8}{item.cluster:12}{item.name:15}{near}")
    quantiles = dict(zip(("q50", "q75", "q90", "q95"),
                         np.quantile(usual, (0.5, 0.75, 0.9, 0.95)).round(3).tolist(),
                         strict=True))  # fmt: skip
    print("nearest training neighbour of a training object:", quantiles)
    nearest = float((feature["out"] @ feature["more"].T).max())
    if nearest > LIMIT:
        raise ValueError(f"An object without a name is {nearest:.3f} near to a held-out one.")
    print(f"nearest unnamed training object of a held-out object: {nearest:.3f}")
    result = {"objects": rows, "nearest_neighbour_among_training": quantiles}
    write_json(Path(__file__).with_name("heldout.json"), result)


if __name__ == "__main__":
    main()
