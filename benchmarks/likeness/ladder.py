"""Validates measures of fidelity, on pictures between the base's own and true ones.

Noise is added to a true picture of a subject, and the base, which knows only its class, removes it
(image to image): at strength 1 nothing of the picture is left, at 0 all of it. A good measure falls
evenly in between, by much more than its standard deviation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from objects import with_article
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.likeness.subjects import PROMPTS, SubjectPart, subjects, truths
from svfit_diffusion.evaluation.features import EfficientNetLite0, EfficientNetLite0Grid, Extractor
from svfit_diffusion.evaluation.measures import among, cosines
from svfit_diffusion.families import TOYBOX, load_base

STRENGTHS = (0.05, 0.3, 0.5, 0.7, 0.85, 1.0)
CHOSEN = (0, 1, 2, 3, 5, 7)  # prompts: plain, scenes, a pattern
SUBJECTS, COUNT = 6, 2  # of the dev subjects; pictures of a prompt and strength
MEASURES = {
    "pooled features": (EfficientNetLite0, False),
    "pooled, the subject's part, less the common": (EfficientNetLite0, True),
    "grid features": (EfficientNetLite0Grid, False),
    "grid, the subject's part, less the common": (EfficientNetLite0Grid, True),
}


def draw() -> dict[tuple[str, int, float], list[Image.Image]]:
    """(subject, prompt, strength) -> pictures."""
    pipe = StableDiffusionImg2ImgPipeline(
        **load_base(TOYBOX).components, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    items = subjects("dev", SUBJECTS)
    steps = [(item, i, strength) for item in items for i in CHOSEN for strength in STRENGTHS]
    drawn = {}
    for item, i, strength in tqdm(steps):
        with torch.inference_mode():
            drawn[item.slug, i, strength] = pipe(
                [PROMPTS[i].words.format(with_article(item.kind))] * COUNT,
                image=list(truths(item, PROMPTS[i])[:COUNT]),
                strength=strength,
                num_inference_steps=25,
                guidance_scale=3.0,
                generator=[torch.Generator().manual_seed(seed) for seed in range(COUNT)],
            ).images
    return drawn


def climb(drawn: dict, see: Extractor, close: bool) -> dict[str, list[float]]:
    """Mean fidelity at each strength, and its standard deviation at the last one.

    close: of the subject's part of the pictures, minus the mean of all objects' true pictures.
    """

    part = SubjectPart(see)

    def features(pictures: Sequence[Image.Image], i: int) -> Tensor:
        return part.features(pictures, PROMPTS[i]) if close else see.features(pictures)

    found = {strength: [] for strength in STRENGTHS}
    true = {
        (item.slug, i): features(truths(item, PROMPTS[i]), i)
        for item in subjects("dev", SUBJECTS)
        for i in CHOSEN
    }
    for (slug, i, strength), pictures in drawn.items():
        found[strength] += cosines(features(pictures, i), true[slug, i]).tolist()
    real = [among(references) for references in true.values()]
    base = np.mean(found[1.0])
    scale = np.mean(real) - base
    return {
        "fidelity": [round(float((np.mean(found[s]) - base) / scale), 3) for s in STRENGTHS],
        "scatter": round(float(np.std(found[1.0]) / scale), 3),
    }


def write(folder: Path) -> None:
    """Generate the pictures, and write `ladder.json` and `ladder.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = draw()
    found = {name: climb(drawn, see(), close) for name, (see, close) in MEASURES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    result = {"strengths": STRENGTHS, **found}
    (folder / "ladder.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110)
    for name, values in found.items():
        axes.plot(
            STRENGTHS, values["fidelity"], "o-", label=f"{name} (scatter {values['scatter']:.2f})"
        )
    axes.set(xlabel="share of the picture's noise that the base drew anew",
             ylabel="fidelity: 0 = base, 1 = true pictures")  # fmt: skip
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "ladder.png")
    for name, values in found.items():
        print(f"{name:45}", values)
