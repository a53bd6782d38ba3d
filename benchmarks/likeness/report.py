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
from benchmarks.likeness.methods import BY_NAME, METHODS, sd15_bytes
from benchmarks.likeness.run import SEEDS
from benchmarks.likeness.subjects import PROMPTS, photos
from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.families import skeleton
from svfit_diffusion.generation.pictures import grid, size_text

RESAMPLES, LEVEL = 4000, 95
AGAINST = "lora-4"
SMALL = ("ti", "svfit-3", "svfit-11-4bit", "core-3", "tinylora", "unilora", "waveft")
PAIRS = (  # the comparisons that claims or goals rest on
    ("svfit-text", "lora-4"),
    ("svfit-text-uncaptioned", "lora-4"),
    ("svfit-text", "lora-4-token"),
    ("svfit-text", "lora-4-captions"),
    ("svfit-text", "lora-4-token-captions"),
    ("svfit-text", "svfit-3-4bit-captions"),
    ("svfit-text", "unilora-captions"),
    ("svfit-text", "ti-captions"),
    ("svfit-3-4bit-captions", "lora-4"),
    ("svfit-3-4bit-captions", "lora-4-token"),
    ("svfit-3-4bit-captions", "lora-4-token-captions"),
    *(("svfit-text-uncaptioned", other) for other in SMALL),
    ("paper", "lora-8"),
    ("paper-token", "lora-8"),
)
SHOWN = (
    "svfit-text",
    "svfit-text-uncaptioned",
    "paper-token",
    "unilora",
    "ti",
    "lora-4",
    "lora-4-token",
    "lora-4-token-captions",
    "full",
)
SEEN = ("fidelity", "aligned", "copy")
Cells = dict[str, dict[str, np.ndarray]]
COLOURS = {"judged": "#d1495b", "ours": "#edae49", "lora": "#00798c", "other": "#8d96a3"}


def shapes() -> dict[str, list[tuple[int, int]]]:
    """(out, in) of Stable Diffusion 1.5's attention projections, "denoiser" and "text"."""
    with tempfile.TemporaryDirectory() as folder:
        family, models = skeleton(families.write("Stable Diffusion 1.5", Path(folder)))
    targets = {family.denoiser: "both", "text_encoder": "self"}
    found: dict[str, list[tuple[int, int]]] = {"denoiser": [], "text": []}
    for p in layout(models, targets):
        part = "denoiser" if p.part == family.denoiser else "text"
        found[part].append((p.out_features, p.in_features))
    return found


def cells(results: list[dict], measure: str) -> Cells:
    """Method -> subject -> [training seeds, prompts, seeds] of a measure."""
    runs: dict[str, dict[str, list]] = {}
    for entry in results:
        job = entry["job"]
        subjects = runs.setdefault(job["method"], {})
        subjects.setdefault(job["subject"], []).append(entry["result"][measure])
    return {
        name: {subject: np.array(found) for subject, found in subjects.items()}
        for name, subjects in runs.items()
    }


def of_all(found: Cells, method: str) -> np.ndarray:
    """A method's cells, [subjects, training seeds, prompts, seeds]."""
    return np.stack(list(found[method].values()))


def minus(found: Cells, one: str, other: str) -> np.ndarray:
    """One method minus another on the subjects of both, shaped as `of_all`.

    The base, which is not trained, is repeated for each training seed.
    """
    shared = [subject for subject in found[one] if subject in found[other]]
    return np.stack([found[one][subject] - found[other][subject] for subject in shared])


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean and bootstrap interval; subjects, training seeds, prompts and seeds are resampled.

    values: [subjects, training seeds, prompts, seeds], or the paired difference of two such.
    """
    rng, means = np.random.default_rng(seed), np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        chosen = values
        for axis, size in enumerate(values.shape):
            chosen = chosen.take(rng.integers(0, size, size), axis)
        means[i] = chosen.mean()
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(values.mean()), float(low), float(high)


def table(results: list[dict]) -> list[dict]:
    """One row per method, in the order of METHODS."""
    by_method: dict[str, list[dict]] = {}
    for entry in results:
        by_method.setdefault(entry["job"]["method"], []).append(entry)
    fidelity, sizes = cells(results, "fidelity"), shapes()
    copies, aligned = cells(results, "copy"), cells(results, "aligned")
    rows = []
    for method in METHODS:
        if method.name not in by_method:
            continue
        entries = by_method[method.name]
        rows.append({
            "method": method.name, "label": method.label, "judged": method.judged,
            "rate": entries[0]["job"]["rate"], "steps": entries[0]["job"]["steps"],
            "values": entries[0]["result"]["values"], "bytes": entries[0]["result"]["bytes"],
            "sd15_bytes": sd15_bytes(method, sizes),
            "subjects": len(fidelity[method.name]),
            "fidelity": interval(of_all(fidelity, method.name)),
            "against": interval(minus(fidelity, method.name, AGAINST)),
            "aligned": float(of_all(aligned, method.name).mean()),
            "copy": float(of_all(copies, method.name).mean()),
            **{key: float(np.mean([entry["result"][key] for entry in entries]))
               for key in ("drift", "diversity", "loss")},
        })  # fmt: skip
    return rows


def pairs(results: list[dict]) -> list[dict]:
    """Paired differences of two methods, for each of PAIRS that was measured."""
    found = {measure: cells(results, measure) for measure in SEEN}
    return [
        {"method": one, "other": other, "subjects": len(minus(found["fidelity"], one, other))}
        | {measure: interval(minus(values, one, other)) for measure, values in found.items()}
        for one, other in PAIRS
        if {one, other} <= found["fidelity"].keys()
    ]


def _range(triple: tuple[float, float, float], sign: bool = False) -> str:
    form = "{:+.3f}" if sign else "{:.3f}"
    return f"{form.format(triple[0])} ({form.format(triple[1])} to {form.format(triple[2])})"


def markdown(rows: list[dict], compared: list[dict], results: list[dict], split: str) -> str:
    """The table with an explanation of its columns, and the differences that claims rest on."""
    command = f"python -m benchmarks.likeness report --split {split}"
    if len(rows) < len(METHODS):
        command += " --methods " + " ".join(row["method"] for row in rows)
    real_copy = {entry["job"]["subject"]: entry["result"]["real_copy"] for entry in results}
    lines = [
        f"# Likeness against bytes on Toybox, {split} subjects",
        "",
        f"`{command}`: {len(real_copy)} subjects, five pictures each, {len(PROMPTS)} prompts x "
        f"{SEEDS} seeds, two training seeds, {rows[-1]['steps']} steps of batch 4. Fidelity is 0 "
        "for the base and 1 for true pictures; copy is the cosine with the nearest training photo, "
        f"{np.mean(list(real_copy.values())):.3f} for true pictures of these prompts. Intervals "
        "hold 95 % of paired bootstraps over subjects, training seeds, prompts and seeds. Rows in "
        "bold are the judged ones. A method that was measured on fewer subjects is only compared: "
        "a difference is of the subjects that both have.",
        "",
        "| method | values | bytes | bytes on SD 1.5 | subjects | fidelity | minus LoRA rank 4 "
        "| aligned | copy | drift | loss |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        label = f"**{row['label']}**" if row["judged"] else row["label"]
        real = "-" if row["sd15_bytes"] is None else f"{row['sd15_bytes']:,}"
        fidelity = _range(row["fidelity"]) if row["subjects"] == len(real_copy) else "-"
        lines.append(
            f"| {label} | {row['values']:,} | {row['bytes']:,} | {real} "
            f"| {row['subjects']} | {fidelity} | {_range(row['against'], True)} "
            f"| {row['aligned']:.3f} | {row['copy']:.3f} | {row['drift']:.4f} "
            f"| {row['loss']:.4f} |"
        )
    lines += ["", "| minus | subjects | fidelity | aligned | copy |", "|---|---|---|---|---|"]
    for pair in compared:
        label = f"{BY_NAME[pair['method']].label} - {BY_NAME[pair['other']].label}"
        seen = " | ".join(_range(pair[measure], True) for measure in SEEN)
        lines.append(f"| {label} | {pair['subjects']} | {seen} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], path: Path) -> None:
    """Fidelity against bytes (log), of the methods that were measured on all subjects."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 5.5), dpi=110)
    whole = [row for row in rows if row["bytes"] and row["subjects"] == rows[0]["subjects"]]
    shown = sorted(whole, key=lambda row: row["bytes"])
    for number, row in enumerate(shown, 1):
        adapter = BY_NAME[row["method"]].adapter
        kind = "judged" if row["judged"] else {"svfit": "ours", "LoraConfig": "lora"}.get(adapter)
        middle, low, high = row["fidelity"]
        errors = [[middle - low], [high - middle]]
        axes.errorbar(row["bytes"], middle, errors, fmt="o", color=COLOURS[kind or "other"],
                      capsize=2, elinewidth=0.8, label=f"{number:2}  {row['label']}")  # fmt: skip
        axes.annotate(number, (row["bytes"], middle), (4, 3), fontsize=8,
                      textcoords="offset points")  # fmt: skip
    axes.set(xscale="log", xlabel="bytes (Toybox)",
             ylabel="fidelity: 0 = base, 1 = true pictures")  # fmt: skip
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="center right", fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0, 0.62, 1))
    figure.savefig(path)


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
            captions.append(
                BY_NAME[name].label if index == 0 else prompt.words.replace("{}", "...")
            )
    return grid(images, captions=captions, columns=len(PROMPTS))


def write(results: list[dict], split: str, folder: Path, work: Path) -> None:
    """Write table, plot and a sheet for each subject."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, compared = table(results), pairs(results)
    slugs = sorted({entry["job"]["subject"] for entry in results})
    record = {"rows": rows, "differences": compared}
    (folder / f"{split}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    text = markdown(rows, compared, results, split)
    (folder / f"{split}.md").write_text(text, "utf-8")
    plot(rows, folder / f"{split}.png")
    for slug in slugs:
        of = {entry["job"]["method"] for entry in results if entry["job"]["subject"] == slug}
        shown = [name for name in SHOWN if name in of and (work / name / f"{slug}-0").is_dir()]
        if AGAINST not in shown:
            continue  # its pictures are on another machine
        path = folder / f"{split}-{slug}.jpg"
        sheet(slug, shown, work).save(path, quality=90)
        print(f"{path}: {size_text(path.stat().st_size)}")
    print(text)
