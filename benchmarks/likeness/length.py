"""How long to train: fixed numbers of steps against `--max_train_steps auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from objects import ToyObject
from torch import nn

from benchmarks.likeness.methods import BY_NAME, Method
from benchmarks.likeness.run import SWEEP_SEEDS, WORDS, Run, glimpse
from svfit_diffusion.data import hold_out
from svfit_diffusion.training.fixed_noise import samples
from svfit_diffusion.training.length import SAMPLES, AutoLength
from svfit_diffusion.training.objective import Denoiser, Objective
from svfit_diffusion.training.runtime import restore, snapshot

STEPS = (200, 400, 800)
SEEN = ("fidelity", "aligned", "copy", "loss")


def fixed(method: Method, item: ToyObject, rate: float, work: Path) -> dict[str, dict]:
    """Steps -> measures after that many. The loss is that on unseen compositions."""
    run, found = Run(method, item, 0, rate, work), {}
    for steps in STEPS:
        run.train(steps)
        found[str(steps)] = _seen(run)
    return found


def auto(method: Method, item: ToyObject, rate: float, work: Path) -> dict[str, dict]:
    """Measures when the product's own rule ends a training, with one photo held out.

    "auto": of the state with the lowest loss, which the product keeps; "auto, last state": of the
    state at the end.
    """
    run = Run(method, item, 0, rate, work)
    model = Denoiser(run.adapted)
    objective = Objective(run.config, run.accelerator, run.adapted, run.subject)
    run.subject.examples, judge = hold_out(run.subject.examples, run.config.seed)
    length = AutoLength(samples(objective, judge, SAMPLES), _named(run), held_out=True)
    length.measure(model, 0)
    while not length.settled:
        run.train(run.steps + 1)
        if length.due(run.steps):
            length.measure(model, run.steps)
    last = _seen(run)
    run.steps = length.restore_best()
    return {"auto": _seen(run), "auto, last state": last}


WAYS = {"fixed": fixed, "auto": auto}


def _named(run: Run) -> dict[str, nn.Parameter]:
    return {str(i): parameter for i, parameter in enumerate(run.parameters)}


def _seen(run: Run) -> dict[str, Any]:
    """Measures of the training so far, rounded as in its file; the training can continue."""
    kept = snapshot(_named(run))
    run.round_values()
    seen = {"steps": run.steps, "loss": round(run.loss(), 6)} | glimpse(run)
    restore(_named(run), kept)
    return seen


def markdown(results: list[dict]) -> str:
    """A row for each method and length: means over subjects, and the number of steps."""
    lines = [
        "# How long to train, on Toybox, dev subjects",
        "",
        f"`python -m benchmarks.likeness length`: {len({e['job']['subject'] for e in results})} "
        f"subjects, one training seed, {len(WORDS)} prompts x {SWEEP_SEEDS} seeds; the "
        "columns are those of the other tables. Steps are those of the state that is kept, from "
        "the least to the most.",
        "",
        "| method | length | steps | " + " | ".join(SEEN) + " |",
        "|---|---|---|" + "---|" * len(SEEN),
    ]
    rows: dict[tuple[str, str], list[dict]] = {}
    for entry in results:
        for length, seen in entry["result"].items():
            rows.setdefault((entry["job"]["method"], length), []).append(seen)
    for (name, length), runs in rows.items():
        steps = sorted({run["steps"] for run in runs})
        shown = f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else f"{steps[0]}"
        means = (f"{np.mean([run[key] for run in runs]):.3f}" for key in SEEN)
        lines.append(f"| {BY_NAME[name].label} | {length} | {shown} | " + " | ".join(means) + " |")
    return "\n".join(lines) + "\n"
