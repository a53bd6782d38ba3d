"""The likeness comparison's table, plot and sheets, from the runs' JSON files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from objects import OBJECTS
from PIL import Image

from benchmarks.families import table as families
from benchmarks.likeness.methods import BY_NAME, METHODS, Method, sd15_bytes
from benchmarks.likeness.run import SEEDS
from benchmarks.likeness.statistics import GOALS, Measures, Triple, verdict
from benchmarks.likeness.subjects import PROMPTS, photos
from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.families import skeleton
from svfit_diffusion.generation.pictures import grid, size_text

AGAINST, WHOLE = "lora-4-help", "whole"
SHOWN = ("base", "default", "tiniest", "ti", "lora-4", "lora-4-help", "whole")
COLOURS = {"ours": "#d1495b", "LoraConfig": "#00798c", "other": "#8d96a3"}


def sd15_sizes(methods: Sequence[Method]) -> dict[str, int | None]:
    """Method -> bytes for Stable Diffusion 1.5's true configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = families.write("Stable Diffusion 1.5", Path(folder))
        family, models = skeleton(path)
        targets = {family.denoiser: "both", "text_encoder": "self"}
        shapes: dict[str, list[tuple[int, int]]] = {"denoiser": [], "text": []}
        for p in layout(models, targets):
            part = "denoiser" if p.part == family.denoiser else "text"
            shapes[part].append((p.out_features, p.in_features))
        return {method.name: sd15_bytes(method, shapes, str(path)) for method in methods}


def table(results: list[dict], scales: dict[str, dict]) -> list[dict]:
    """One row per method, in the order of METHODS."""
    by_method: dict[str, list[dict]] = {}
    for entry in results:
        by_method.setdefault(entry["job"]["method"], []).append(entry)
    measures = Measures(results, scales)
    measured = [method for method in METHODS if method.name in by_method]
    sizes = sd15_sizes(measured)
    whole = measures.fidelity(WHOLE) if WHOLE in measures.near else {}
    rows = []
    for method in measured:
        entries = by_method[method.name]
        seen = measures.fidelity(method.name)
        shared = [s for s in seen if s in whole]
        alike = method.help == BY_NAME[AGAINST].help and method.name != AGAINST
        against = alike and AGAINST in by_method
        rows.append({
            "method": method.name, "label": method.label, "help": method.help,
            "rate": entries[0]["job"]["rate"], "steps": entries[0]["job"]["steps"],
            "trainings": max(entry["job"]["seed"] for entry in entries) + 1,
            "values": entries[0]["result"]["values"], "bytes": entries[0]["result"]["bytes"],
            "sd15_bytes": sizes[method.name], "scaled": method.scaled,
            "subjects": {s: round(value, 4) for s, value in seen.items()},
            "fidelity": measures.mean(method.name),
            "of_whole": float(np.mean([seen[s] for s in shared])
                              / np.mean([whole[s] for s in shared])) if shared else None,
            "against": measures.difference(method.name, AGAINST) if against else None,
            **{key: float(np.mean([np.mean(entry["result"][key]) for entry in entries]))
               for key in ("aligned", "copy", "drift", "diversity", "loss")},
        })  # fmt: skip
    return rows


def goals(results: list[dict], scales: dict[str, dict]) -> list[dict]:
    """The comparisons that were written down before, of what was measured."""
    measures, found = Measures(results, scales), []
    aligned = {key: _means(results, key) for key in ("aligned", "copy")}
    for goal in GOALS:
        if not {goal.one, goal.other} <= measures.near.keys():
            continue
        difference = measures.difference(goal.one, goal.other)
        found.append({
            "one": goal.one, "other": goal.other, "margin": goal.margin, "primary": goal.primary,
            "unlike": goal.unlike, "fidelity": difference,
            "verdict": verdict(difference, goal.margin),
            **{key: of[goal.one] - of[goal.other] for key, of in aligned.items()},
        })  # fmt: skip
    return found


def _means(results: list[dict], key: str) -> dict[str, float]:
    runs: dict[str, list[float]] = {}
    for entry in results:
        runs.setdefault(entry["job"]["method"], []).append(float(np.mean(entry["result"][key])))
    return {name: float(np.mean(values)) for name, values in runs.items()}


def span(triple: Triple | None, sign: bool = False) -> str:
    """A mean and its interval; of a difference, with its sign."""
    if triple is None:
        return ""
    form = "{:+.3f}" if sign else "{:.3f}"
    return f"{form.format(triple[0])} ({form.format(triple[1])} to {form.format(triple[2])})"


def markdown(
    rows: list[dict], compared: list[dict], scales: dict[str, dict], decoded: Triple, split: str
) -> str:
    """The table with an explanation of its columns, and the differences that claims rest on."""
    copy = np.mean([scale["real_copy"] for scale in scales.values()])
    lines = [
        f"# Likeness against bytes on Toybox, {split} subjects",
        "",
        f"`python -m benchmarks.likeness report --split {split}`: {len(scales)} subjects, five "
        f"pictures each, {len(PROMPTS)} prompts x {SEEDS} seeds, batches of 4, each method at its "
        "best rate and number of steps on other subjects. Fidelity is 0 for the base and 1 for "
        f"another true picture; true pictures through the VAE alone have {span(decoded)}. "
        f"Intervals hold 95 % of drawings of subjects, with the error of the scale. Aligned is the "
        "share of the prompt's other contents that is recognised; copy the cosine with the nearest "
        f"training photo, {copy:.3f} for true pictures of these prompts. Rows of SVFit were "
        "trained by `svfit train` and have their file's bytes, with its header; the others have "
        "those of their values. Methods in no comparison below were measured on fewer subjects. A "
        "row marked * trains the share of Toybox's values that it trains "
        "of Stable Diffusion's.",
    ]
    for help in dict.fromkeys(row["help"] for row in rows):
        part = [row for row in rows if row["help"] == help]
        lines += ["", f"## Help: {help}", "",
                  "| method | bytes | on SD 1.5 | rate, steps; trainings, subjects | fidelity "
                  "| of all weights | minus LoRA rank 4 | aligned | copy | drift |",
                  "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for row in part:
            real = "" if row["sd15_bytes"] is None else f"{row['sd15_bytes']:,}"
            of = "" if row["of_whole"] is None else f"{row['of_whole']:.2f}"
            lines.append(
                f"| {row['label']}{' *' * row['scaled']} | {row['bytes']:,} | {real} "
                f"| {row['rate']:g}, {row['steps']}; {row['trainings']}, {len(row['subjects'])} "
                f"| {span(row['fidelity'])} | {of} | {span(row['against'], True)} "
                f"| {row['aligned']:.3f} | {row['copy']:.3f} | {row['drift']:.4f} |"
            )
    lines += ["", "## Comparisons", "",
              "Written down before the subjects were seen; the first decides, the others explore.",
              "", "| one | minus the other | fidelity | margin | says | aligned | copy |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    for goal in compared:
        one, other = (f"{BY_NAME[goal[key]].label} ({BY_NAME[goal[key]].help})"
                      for key in ("one", "other"))  # fmt: skip
        mark = "**" if goal["primary"] else ""
        lines.append(
            f"| {mark}{one}{mark} | {other} | {span(goal['fidelity'], True)} | {goal['margin']} "
            f"| {goal['verdict']} | {goal['aligned']:+.3f} | {goal['copy']:+.3f} |"
        )
    return "\n".join(lines) + "\n"


def short_table(rows: list[dict]) -> str:
    """The table of docs/likeness.md, of a report's rows: those with the same help together."""
    lines = ["| help | method | on SD 1.5, bytes | fidelity | of all weights | minus LoRA rank 4 "
             "| aligned | copy |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in sorted(rows, key=lambda row: len(row["help"])):
        size = "" if row["sd15_bytes"] is None else f"{row['sd15_bytes']:,}"
        of = "" if row["of_whole"] is None else f"{row['of_whole']:.2f}"
        label = f"**{row['label']}**" if row["method"] == "default" else row["label"]
        lines.append(
            f"| {row['help']} | {label} | {size} | {span(row['fidelity'])} | {of} "
            f"| {span(row['against'], True)} | {row['aligned']:.3f} | {row['copy']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], decoded: Triple, path: Path) -> None:
    """A line for each method, by help: a dot per subject, the mean and its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ordered: list[dict | str] = []
    most = max(len(row["subjects"]) for row in rows)
    for help in sorted({row["help"] for row in rows}, key=len):
        part = [row for row in rows if row["help"] == help and row["method"] != "base"]
        ordered += sorted(part, key=lambda row: row["fidelity"][0])
        ordered += [f"help: {help}"] if part else []
    figure, axes = pyplot.subplots(figsize=(10, 0.3 * len(ordered) + 1.2), dpi=110)
    labels = []
    for place, row in enumerate(ordered):
        if isinstance(row, str):
            labels.append(row)
            continue
        method = BY_NAME[row["method"]]
        kind = "ours" if method.settings is not None else method.adapter
        colour = COLOURS.get(kind, COLOURS["other"])
        dots = list(row["subjects"].values())
        axes.plot(dots, [place] * len(dots), "o", color=colour, alpha=0.25, markersize=4)
        middle, low, high = row["fidelity"]
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="D", color=colour,
                      capsize=3, markersize=5)  # fmt: skip
        size = row["bytes"] if row["sd15_bytes"] is None else row["sd15_bytes"]
        where = "Toybox" if row["sd15_bytes"] is None else "SD 1.5"
        fewer = f" ({len(dots)} objects)" if len(dots) < most else ""
        labels.append(f"{row['label']}, {size_text(size)} on {where}{fewer}")
    axes.axvline(decoded[0], color="black", linestyle=":", linewidth=1)
    axes.text(decoded[0] - 0.005, len(ordered) - 1, "the VAE's limit", ha="right", va="center",
              fontsize=8)  # fmt: skip
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_yticks(range(len(ordered)), labels, fontsize=8)
    axes.set(xlabel="fidelity: 0 is the base, 1 another true picture")
    axes.grid(alpha=0.25, axis="x")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def sheet(slug: str, shown: Sequence[str], work: Path) -> Image.Image:
    """The subject's photos, then a row of prompts for each of the shown methods."""
    item = next(item for item in OBJECTS if item.slug == slug)
    taken = photos(item)
    images = [*taken, *[Image.new("RGB", (128, 128), "white")] * (len(PROMPTS) - len(taken))]
    captions = ["photo"] * len(taken) + [""] * (len(PROMPTS) - len(taken))
    for name in shown:
        folder = work / name / f"{slug}-0"
        for index, prompt in enumerate(PROMPTS):
            images.append(Image.open(folder / f"{index * SEEDS:03d}.png").convert("RGB"))
            method = BY_NAME[name]
            label = f"{method.label}, help: {method.help}"
            captions.append(label if index == 0 else prompt.words.replace("{}", "..."))
    return grid(images, captions=captions, columns=len(PROMPTS))


def write(
    results: list[dict], scales: dict[str, dict], split: str, folder: Path, work: Path
) -> None:
    """Write table, plot and a sheet for each subject."""
    folder.mkdir(parents=True, exist_ok=True)
    decoded = Measures([], scales).mean("decoded")
    rows, compared = table(results, scales), goals(results, scales)
    record = {"decoded": decoded, "rows": rows, "comparisons": compared}
    (folder / f"{split}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    text = markdown(rows, compared, scales, decoded, split)
    (folder / f"{split}.md").write_text(text, "utf-8")
    plot(rows, decoded, folder / f"{split}.png")
    for slug in scales:
        shown = [name for name in SHOWN if (work / name / f"{slug}-0").is_dir()]
        if AGAINST not in shown:
            continue  # its pictures are on another machine
        path = folder / f"{split}-{slug}.jpg"
        sheet(slug, shown, work).save(path, quality=85)
        print(f"{path}: {size_text(path.stat().st_size)}")
    print(text)
