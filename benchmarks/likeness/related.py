"""The tables of docs/related.md: methods of other papers and trials of their ideas."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.likeness.jobs import best, sweep_jobs
from benchmarks.likeness.methods import BY_NAME, METHODS
from benchmarks.likeness.report import span
from benchmarks.likeness.store import RESULTS, results_of

SOURCES = {  # method -> the paper's number on arXiv
    "default": "2409.05926", "equal": "2409.05926", "paper-help": "2409.05926",
    "ti": "2208.01618", "lora-4-help": "2106.09685", "lora-8-help": "2106.09685",
    "adalora": "2303.10512", "hra": "2405.17484", "oft": "2306.07280", "loha": "2108.06098",
    "lokr": "2309.14859", "ia3": "2205.05638", "shira": "2406.13175",
    "chosen": "2205.11255", "unmasked": "2408.14470", "shared": "2410.04060",
    "weighted": "2207.00112", "falling": "2507.05964", "direction": "2512.13672",
    "from-output": "2312.15905", "context": "2408.15914", "photo-words": "2602.19575",
    "values": "2305.01644", "layered": "2305.15391",
}  # fmt: skip
EDITS = ("default", "paper-help", "ti", "lora-4-help", "lora-8-help", "oft", "loha", "lokr", "ia3",
         "shira", "full", "whole")  # fmt: skip
MORE_EDITS = ("lora-4-help", "adalora", "hra")
CHOICES = ("equal", "chosen", "unmasked", "shared", "weighted", "falling")
TRIALS = tuple(method.name for method in METHODS if method.trial)


def _name(method: str) -> str:
    label, source = BY_NAME[method].label, SOURCES.get(method)
    return f"[{label}](https://arxiv.org/abs/{source})" if source else label


def sealed_table(rows: Sequence[dict], names: Sequence[str]) -> str:
    """Of a report's rows: those of these names that were measured."""
    lines = ["| method | objects | on SD 1.5, bytes | fidelity | minus LoRA rank 4 | aligned "
             "| drift |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    found = {row["method"]: row for row in rows}
    for row in (found[name] for name in names if name in found):
        size = "" if row["sd15_bytes"] is None else f"{row['sd15_bytes']:,}"
        against = span(row["against"], True)
        lines.append(
            f"| {_name(row['method'])} | {len(row['subjects'])} | {size} "
            f"| {span(row['fidelity'])} | {against} | {row['aligned']:.3f} "
            f"| {row['drift']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def dev_table(names: Sequence[str]) -> str:
    """Of the sweep: each at its best rate, and each object's fidelity."""
    chosen, each = best(list(names)), {}
    for entry in results_of(sweep_jobs(list(names))):
        job = entry["job"]
        choice = chosen[job["method"]]
        if job["rate"] == choice["rate"]:
            seen = entry["result"][str(choice["steps"])]
            each.setdefault(job["method"], {})[job["subject"]] = seen["fidelity"]
    subjects = list(each[names[0]])
    lines = ["| method | fidelity | " + " | ".join(subjects) + " | aligned |",
             "|---|---|" + "---|" * (len(subjects) + 1)]  # fmt: skip
    for name in names:
        values = " | ".join(f"{each[name][subject]:.3f}" for subject in subjects)
        mean = chosen[name]["fidelity"]
        lines.append(f"| {_name(name)} | {mean:.3f} | {values} | {chosen[name]['aligned']:.3f} |")
    return "\n".join(lines) + "\n"


def tables() -> dict[str, str]:
    """All of them, by what they show."""
    rows = json.loads((RESULTS / "sealed.json").read_text("utf-8"))["rows"]
    return {
        "edits": sealed_table(rows, EDITS),
        "more edits": dev_table(MORE_EDITS),
        "choices": dev_table(CHOICES),
        "trials": dev_table(TRIALS),
    }
