"""Speed and memory: every claim is measured side by side with the alternative.

    python -m benchmarks.speed [--only load train ...] [--quick] [--diffusers-script FILE]

Each script runs in a process of its own. The rows are written to `results/` beside this file, as
JSON, a table (speed.md) and a plot of growth (growth.png). Run it on a machine that does nothing
else, or the times mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
SCRIPTS = ("start", "load", "draw", "train", "script", "memory", "serve", "grow", "gpu")
FORMATS = {"s": "{:.3g} s", "MB": "{:.3g} MB", "GB": "{:.3g} GB", "GFLOP": "{:.3g} GFLOP"}


def measure(script: str, quick: bool) -> None:
    """Run one script's claims in this process and store the results."""
    rows, curves = importlib.import_module(f"benchmarks.speed.{script}").run(quick)
    found = {"rows": [row.as_dict() for row in rows], "growth": curves, "machine": machine()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{script}.json").write_text(json.dumps(found, indent=1) + "\n")


def machine() -> dict:
    """The machine of the measurement."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": device,
            "torch": torch.__version__}  # fmt: skip


def table(found: list[dict]) -> str:
    """The rows as Markdown."""
    lines = ["| claim | against | ours | theirs | ratio (range) | goal | met |", "|---" * 7 + "|"]
    for row in found:
        unit = FORMATS[row["unit"]]
        goal = "-" if row["goal"] is None else f"<= {row['goal']:.3g}"
        lines.append(
            f"| {row['claim']} | {row['against']} | {unit.format(row['ours'])} | "
            f"{unit.format(row['theirs'])} | {row['ratio']:.3g} ({row['low']:.3g} to "
            f"{row['high']:.3g}) | {goal} | {met(row)} |"
        )
    return "\n".join(lines) + "\n"


def met(row: dict) -> str:
    """Whether a row's goal is met, and why not, if that is known."""
    goal = row["goal"]
    if goal is None:
        return "-"
    if row["high"] <= goal:
        return "yes"
    missed = "**no**" if row["low"] > goal else "not distinguishable"
    reason = row.get("reason", "")
    return f"{missed}: {reason}" if reason else missed


def plot(curves: dict[str, dict], path: Path) -> None:
    """One panel per curve, four in a line: the first list is x, each of the others a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns, lines_of_panels = min(4, len(curves)), -(-len(curves) // 4)
    figure, axes = plt.subplots(
        lines_of_panels, columns, figsize=(4 * columns, 3.4 * lines_of_panels), squeeze=False
    )
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis, (title, lines) in zip(axes.flat, curves.items(), strict=False):
        label, x = next(iter(lines.items()))
        for name, values in list(lines.items())[1:]:
            axis.plot(range(len(x)), values, marker="o", label=name)
        axis.set_xticks(range(len(x)), [str(value) for value in x])
        axis.set(title=title, xlabel=label, ylabel="seconds")
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure the chosen scripts, then write the table of everything measured so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS)
    parser.add_argument("--quick", action="store_true", help="one round of each, to see it run")
    parser.add_argument("--here", choices=SCRIPTS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--diffusers-script", help="examples/dreambooth/train_dreambooth_lora.py of diffusers"
    )
    given = parser.parse_args()
    if given.here:
        measure(given.here, given.quick)
        return
    if given.diffusers_script:
        os.environ["DIFFUSERS_LORA_SCRIPT"] = given.diffusers_script
    for script in given.only:
        if script == "script" and "DIFFUSERS_LORA_SCRIPT" not in os.environ:
            print("whole scripts are not compared: pass diffusers' with --diffusers-script")
            continue
        if script == "gpu" and not torch.cuda.is_available():
            print("nothing is measured on a GPU, as this machine has none")
            continue
        command = [sys.executable, "-m", "benchmarks.speed", "--here", script] + [
            "--quick"
        ] * given.quick
        subprocess.run(command, check=True)
    found = [json.loads(path.read_text()) for script in SCRIPTS
             if (path := RESULTS / f"{script}.json").is_file()]  # fmt: skip
    text = table([row for part in found for row in part["rows"]])
    (RESULTS / "speed.md").write_text(text)
    print(text)
    if curves := {k: v for part in found for k, v in part["growth"].items()}:
        plot(curves, RESULTS / "growth.png")


if __name__ == "__main__":
    main()
