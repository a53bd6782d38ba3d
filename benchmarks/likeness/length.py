"""How long to train: fixed numbers of steps against `--max_train_steps auto`, as shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from objects import ToyObject

from benchmarks.likeness.methods import BY_NAME
from benchmarks.likeness.run import SWEEP_SEEDS, WORDS, glimpse
from benchmarks.likeness.trainings import Shipped
from svfit_diffusion.settings.options import AUTO

METHOD, WAYS = "default", ("100", "200", "400", AUTO)
SEEN = ("fidelity", "aligned", "copy", "loss")


def one(way: str, item: ToyObject, rate: float, work: Path) -> dict[str, float]:
    """Steps of the written file, and its measures. The loss is that on unseen compositions."""
    run = Shipped(BY_NAME[METHOD], item, 0, rate, work)
    for _ in run.trained(way if way == AUTO else int(way)):
        seen = glimpse(run)
    return {"steps": run.steps} | seen


def markdown(results: list[dict]) -> str:
    """A row for each length: means over subjects, and the number of steps."""
    lines = [
        "# How long to train, on Toybox, dev subjects",
        "",
        f"`python -m benchmarks.likeness length`: {len({e['job']['subject'] for e in results})} "
        f"subjects, one training seed, {len(WORDS)} prompts x {SWEEP_SEEDS} seeds; the "
        "columns are those of the other tables. Steps are those of the file, from the least to the "
        "most.",
        "",
        "| length | steps | " + " | ".join(SEEN) + " |",
        "|---|---|" + "---|" * len(SEEN),
    ]
    rows: dict[str, list[dict]] = {}
    for entry in results:
        rows.setdefault(entry["job"]["way"], []).append(entry["result"])
    for way, runs in rows.items():
        steps = sorted({run["steps"] for run in runs})
        shown = f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else f"{steps[0]}"
        means = (f"{np.mean([run[key] for run in runs]):.3f}" for key in SEEN)
        lines.append(f"| {way} | {shown} | " + " | ".join(means) + " |")
    return "\n".join(lines) + "\n"
