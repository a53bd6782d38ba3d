"""Fidelity of objects that Toybox knows, on the scale of `docs/likeness.md`.

0 is a base's picture of the class word, 1 another true picture. The base of 0 is one for good, the
third export: its mean closeness for each name and prompt is in `known_base.json`, so that the scale
does not move with a model that gets better. Pictures, prompts and features are those of
`benchmarks/likeness/subjects.py`.
Run: python recipes/toybox/fidelity.py FOLDER     (of another base's pictures: `known_base.json`)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import RECIPE, REPOSITORY, sha256, write_json
from objects import BY_NAME, with_article
from PIL import Image

sys.path.insert(0, str(REPOSITORY))

from benchmarks.likeness.subjects import (  # noqa: E402
    PROMPTS,
    SubjectPart,
    decoded_pictures,
    truths,
)
from svfit_diffusion.evaluation.features import EfficientNetLite0Grid  # noqa: E402
from svfit_diffusion.evaluation.measures import among, cosines  # noqa: E402

NAMES = (
    "dog", "elephant", "penguin", "parrot", "fish", "butterfly", "strawberry", "banana", "burger",
    "donut", "tractor", "car", "airplane", "sailboat", "house", "castle", "rose", "pine tree",
    "soccer ball", "kite", "teapot", "key", "drum", "cool face",
)  # fmt: skip
BASE = RECIPE / "known_base.json"
SEEDS = 4  # pictures of each prompt

Draw = Callable[[list[str], list[int]], list[Image.Image]]  # prompts, seeds -> pictures


def halved(pipe) -> None:
    """Let a pipeline's UNet compute in bfloat16, which takes half the time on newer cores."""
    forward = pipe.unet.forward

    def run(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **kwargs)

    pipe.unet.forward = run


def jobs(noun: str, seeds: int) -> tuple[list[str], list[int]]:
    """Prompts and seeds of all pictures of one noun; each prompt's lie side by side."""
    words = [prompt.words.format(with_article(noun)) for prompt in PROMPTS for _ in range(seeds)]
    return words, list(range(seeds)) * len(PROMPTS)


class Scale:
    """How near pictures are to the true ones of a name, by prompt."""

    def __init__(self) -> None:
        self.part = SubjectPart(EfficientNetLite0Grid())

    def near(self, name: str, pictures: list[Image.Image]) -> np.ndarray:
        """Mean cosine with the true pictures, of as many pictures for each prompt: [prompts]."""
        seeds = len(pictures) // len(PROMPTS)
        rows = []
        for i, prompt in enumerate(PROMPTS):
            true = self.part.features(truths(BY_NAME[name], prompt), prompt)
            mine = self.part.features(pictures[i * seeds : (i + 1) * seeds], prompt)
            rows.append(float(cosines(mine, true).mean()))
        return np.array(rows)

    def real(self, name: str) -> np.ndarray:
        """Mean cosine of the true pictures with one another: [prompts]."""
        return np.array([among(self.part.features(truths(BY_NAME[name], p), p)) for p in PROMPTS])

    def decoded(self, name: str, vae) -> np.ndarray:
        """Mean cosine of true pictures sent through a VAE with the other true ones: [prompts]."""
        rows = []
        for prompt in PROMPTS:
            pictures = truths(BY_NAME[name], prompt)
            mine = self.part.features(decoded_pictures(vae, pictures), prompt)
            near = mine @ self.part.features(pictures, prompt).T
            count = len(pictures)
            rows.append(float((near.sum() - near.diagonal().sum()) / (count * (count - 1))))
        return np.array(rows)


def summary(near: dict[str, np.ndarray], real: dict[str, np.ndarray]) -> dict:
    """Mean fidelity, each name's and each prompt's, from closeness by prompt; one scale over all
    prompts, so that a prompt's own limit is that of its true pictures, below 1 or above.
    """
    base = json.loads(BASE.read_text("utf-8"))["near"]
    found = {}
    for name, rows in near.items():
        zero = float(np.mean(base[name]))
        found[name] = (rows - zero) / (real[name].mean() - zero)
    prompts = zip(PROMPTS, np.mean(list(found.values()), 0), strict=True)
    return {
        "fidelity": round(float(np.mean(list(found.values()))), 3),
        "each": {name: round(float(values.mean()), 3) for name, values in found.items()},
        "by_prompt": {prompt.words: round(float(value), 3) for prompt, value in prompts},
    }


def check_truths(vae, names: tuple[str, ...] = NAMES) -> dict:
    """Fidelity of true pictures sent through the VAE, and by prompt of these themselves."""
    scale = Scale()
    near = {name: scale.decoded(name, vae) for name in names}
    real = {name: scale.real(name) for name in names}
    return {**summary(near, real), "limit_by_prompt": summary(real, real)["by_prompt"]}


def check_known(draw: Draw, names: tuple[str, ...] = NAMES, seeds: int = SEEDS) -> dict:
    """Fidelity of objects asked for by name."""
    scale = Scale()
    near = {name: scale.near(name, draw(*jobs(name, seeds))) for name in names}
    found = summary(near, {name: scale.real(name) for name in names})
    facts = json.loads(BASE.read_text("utf-8"))
    return {**found, "prompts": len(PROMPTS), "seeds": seeds, "zero": facts["drawn_by"]}


def main() -> None:
    """Write `known_base.json` with the pipeline of a folder."""
    from check import draw
    from diffusers import StableDiffusionPipeline

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="of a Toybox pipeline, as an export wrote it")
    folder = parser.parse_args().folder
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    halved(pipe)
    scale, near, drawn = Scale(), {}, {}
    for name in NAMES:
        kind = BY_NAME[name].kind
        if kind not in drawn:
            drawn[kind] = draw(pipe, *jobs(kind, SEEDS))
        near[name] = [round(float(v), 5) for v in scale.near(name, drawn[kind])]
        print(name, kind, round(float(np.mean(near[name])), 4), flush=True)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    words = f"{folder.resolve().name}, UNet SHA-256 {sha256(weights)[:12]}"
    write_json(BASE, {"drawn_by": words, "seeds": SEEDS, "near": near})


if __name__ == "__main__":
    main()
