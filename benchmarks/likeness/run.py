"""One run of the likeness comparison: train a method on a subject with Toybox, and measure it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from objects import ToyObject
from PIL import Image

from benchmarks.likeness.methods import BY_NAME, Method
from benchmarks.likeness.subjects import OTHERS, PROMPTS, Judge, decoded_pictures, truths
from benchmarks.likeness.trainings import Drawer
from benchmarks.likeness.ways import subject_run
from svfit_diffusion.evaluation.measures import diversity, drift
from svfit_diffusion.families import TOYBOX, load_base
from svfit_diffusion.generation.pictures import save_png

SEEDS, SWEEP_SEEDS = 4, 2
WORDS = [prompt.words for prompt in PROMPTS]


def sweep(method: Method, item: ToyObject, rate: float, looks: tuple[int, ...], work: Path) -> dict:
    """Measures after each number of steps, of a few pictures of each prompt."""
    run = subject_run(method, item, 0, rate, work)
    return {str(steps): glimpse(run) for steps in run.trained(*looks)}


def glimpse(run: Drawer) -> dict[str, float]:
    """The means of the measures over a few pictures of each prompt, rounded as in the file; a
    training can go on.
    """
    with run.as_written():
        pictures, loss = run.generate(WORDS, SWEEP_SEEDS), run.loss()
    return judged(run, pictures) | {"loss": round(loss, 4)}


def judged(run: Drawer, pictures: list[Image.Image]) -> dict[str, float]:
    """The means of the measures over these pictures, a few of each prompt."""
    judge = judge_of(run.item, run.work, SWEEP_SEEDS)
    seen = {
        "fidelity": judge.fidelity(pictures),
        "copy": judge.copies(judge.features(pictures)),
        "aligned": judge.aligned(pictures),
    }
    return {key: round(float(values.mean()), 4) for key, values in seen.items()}


def measure(
    method: Method, item: ToyObject, seed: int, rate: float, steps: int, work: Path
) -> dict[str, Any]:
    """Train, generate all prompts, and measure. The pictures are kept in the work folder.

    near: each picture's mean cosine with its prompt's true pictures, from which report.py makes
    fidelity, with the scale of `scale`.
    """
    base, run = base_pictures(item, work), subject_run(method, item, seed, rate, work)
    if method.name == "base":
        pictures, loss = base, run.loss()
    else:
        for _ in run.trained(steps):
            with run.as_written():
                pictures, loss = run.generate([*WORDS, *OTHERS], SEEDS), run.loss()
    _keep(work / method.name / f"{item.slug}-{seed}", pictures)
    judge, count = judge_of(item, work, SEEDS), len(WORDS) * SEEDS
    features = judge.features(pictures)
    seen = {
        "near": judge.near(pictures[:count]),
        "copy": judge.copies(features[:count]).reshape(-1, SEEDS),
        "aligned": judge.aligned(pictures[:count]),
    }
    return {
        "values": getattr(run, "values", 0),
        "bytes": getattr(run, "bytes", 0),
        "loss": round(loss, 6),
        **{key: np.round(values, 4).tolist() for key, values in seen.items()},
        "drift": round(drift(features[count:], judge.features(base[count:])), 5),
        "diversity": round(diversity(features[:count], SEEDS), 5),
    }


def scale(item: ToyObject, work: Path) -> dict[str, Any]:
    """What 0 and 1 are for a subject, and what the VAE alone leaves of true pictures.

    base: [prompts, seeds]; real, decoded: of each true picture, and of it sent through the VAE, the
    mean cosine with the others [prompts, views]. real_copy: true pictures' copy score.
    """
    judge = judge_of(item, work, SEEDS)
    vae = load_base(TOYBOX).vae
    real, decoded = [], []
    for prompt, references in zip(PROMPTS, judge.references, strict=True):
        seen = judge.part.features(decoded_pictures(vae, truths(item, prompt)), prompt)
        for found, pictures in ((real, references), (decoded, seen)):
            near = pictures @ references.T
            near.fill_diagonal_(0)
            found.append((near.sum(1) / (len(near) - 1)).tolist())
    return {
        "base": np.round(judge.base, 4).tolist(),
        "real": np.round(real, 4).tolist(),
        "decoded": np.round(decoded, 4).tolist(),
        "real_copy": round(judge.real_copy, 4),
    }


@functools.cache
def judge_of(item: ToyObject, work: Path, seeds: int) -> Judge:
    """A judge for this number of seeds per prompt."""
    base = base_pictures(item, work)
    taken = [base[prompt * SEEDS + seed] for prompt in range(len(WORDS)) for seed in range(seeds)]
    return Judge(item, taken, seeds)


def base_pictures(item: ToyObject, work: Path) -> list[Image.Image]:
    """The base's pictures of the class word, for all prompts; generated once and kept."""
    folder, words = work / "base" / item.slug, [*WORDS, *OTHERS]
    if (pictures := _stored(folder, words)) is None:
        pictures = Drawer(BY_NAME["base"], item, 0, 0.0, work).generate(words, SEEDS)
        _keep(folder, pictures)
    return pictures


def _keep(folder: Path, pictures: list[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        save_png(picture, folder / f"{index:03d}.png")


def _stored(folder: Path, words: list[str]) -> list[Image.Image] | None:
    """The pictures of a folder, if it is complete."""
    paths = [folder / f"{index:03d}.png" for index in range(len(words) * SEEDS)]
    if not all(path.is_file() for path in paths):
        return None
    return [Image.open(path).convert("RGB") for path in paths]
