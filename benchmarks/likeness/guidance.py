"""What predicts without the prompt where a picture is guided: the personalised model, as usual, or
a weaker one (steering guidance, arXiv 2508.00319). All ways draw with one and the same training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from objects import ToyObject
from PIL import Image
from torch import Tensor

from benchmarks.likeness.jobs import shipped
from benchmarks.likeness.methods import BY_NAME
from benchmarks.likeness.run import SWEEP_SEEDS, WORDS, judged
from benchmarks.likeness.trainings import SAMPLED, TOKEN, Shipped
from svfit_diffusion.adapter.layer import BASE
from svfit_diffusion.adapter.tuner import adapter_rows
from svfit_diffusion.pipeline import load_concept

METHOD = "default"
STRENGTHS = {"own": 1.0, "weaker": 0.5, "stronger": 1.25}
WAYS = {  # which of these, or the base, predicts without the prompt, and which with it
    "the personalised model, as usual": ("own", "own"),
    "the concept at half strength": ("weaker", "own"),
    "the base": (BASE, "own"),
    "the personalised model, both at strength 1.25": ("stronger", "stronger"),
}
SEEN = ("fidelity", "aligned", "copy")


class Guided(Shipped):
    """A training of the product, with the concept at several strengths on the pipeline."""

    without, given = WAYS["the personalised model, as usual"]

    def load_all(self) -> None:
        """The concept at each strength, under a name and a word of its own."""
        for name, strength in STRENGTHS.items():
            load_concept(self.pipe, self.path, strength, name=name, token=f"{TOKEN}{name}")

    def prompt(self, words: str) -> str:
        """A prompt with the word of the concept that reads it."""
        return super().prompt(words).replace(TOKEN, f"{TOKEN}{self.given}")

    def draw(self, prompts: list[str], generators: list[torch.Generator]) -> list[Image.Image]:
        """A batch of pictures."""
        count = len(prompts)
        empty, read = self._read([""] * count, self.without), self._read(prompts, self.given)
        with adapter_rows(self.pipe.unet, [self.without] * count + [self.given] * count):
            return self.pipe(
                prompt_embeds=read, negative_prompt_embeds=empty, generator=generators, **SAMPLED
            ).images

    def _read(self, prompts: list[str], concept: str) -> Tensor:
        with adapter_rows(self.pipe.text_encoder, [concept] * len(prompts)):
            return self.pipe.encode_prompt(prompts, torch.device("cpu"), 1, False)[0]


def one(item: ToyObject, work: Path) -> dict[str, Any]:
    """The measures of each way."""
    rate, steps = shipped()
    run, found = Guided(BY_NAME[METHOD], item, 0, rate, work), {}
    for _ in run.trained(steps):
        run.load_all()
        for way, (run.without, run.given) in WAYS.items():
            found[way] = judged(run, run.generate(WORDS, SWEEP_SEEDS))
    return found


def markdown(results: list[dict]) -> str:
    """A row for each way: means over subjects, and each subject's difference from the first."""
    runs = [entry["result"] for entry in results]
    lines = [
        "# What guides a picture of a concept, on Toybox, dev subjects",
        "",
        f"`python -m benchmarks.likeness guidance`: {len(runs)} subjects, one training of the "
        f"default each, {len(WORDS)} prompts x {SWEEP_SEEDS} seeds. The difference is that of the "
        "fidelity from the first row's, for each subject.",
        "",
        "| without the prompt predicts | " + " | ".join(SEEN) + " | difference |",
        "|---|" + "---|" * (len(SEEN) + 1),
    ]
    first = next(iter(WAYS))
    for way in WAYS:
        means = (f"{np.mean([run[way][key] for run in runs]):.3f}" for key in SEEN)
        each = (f"{run[way]['fidelity'] - run[first]['fidelity']:+.3f}" for run in runs)
        shown = " ".join(each) if way != first else ""
        lines.append(f"| {way} | {' | '.join(means)} | {shown} |")
    return "\n".join(lines) + "\n"
