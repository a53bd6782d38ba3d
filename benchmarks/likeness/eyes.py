"""Does the measure agree with eyes? Pairs of pictures to judge blind, and how often it did.

Each sheet shows a true picture above two pictures of the same prompt and seed by two methods, in
random order. Whoever judges writes a list of "left" or "right", one for each, into
`eyes-<split>-answers.json`; run again, it prints for how many the measure chose the same.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from objects import OBJECTS
from PIL import Image

from benchmarks.likeness.run import SEEDS
from benchmarks.likeness.subjects import PROMPTS, truths

PAIRS, PER_SHEET = 50, 10
METHODS = ("default", "lora-4-help", "ti")  # fixed, so that answers stay those of their pairs


def pairs(results: list[dict]) -> list[dict]:
    """Chosen pairs: subject, prompt, seed, the methods on both sides, and their measures."""
    rng = np.random.default_rng(11)
    runs = {(e["job"]["method"], e["job"]["subject"]): e["result"]["near"] for e in results
            if e["job"]["seed"] == 0 and e["job"]["method"] in METHODS}  # fmt: skip
    subjects = sorted({subject for _, subject in runs})
    found = []
    while len(found) < PAIRS:
        one, other = rng.choice(METHODS, 2, replace=False)
        subject = str(rng.choice(subjects))
        if (one, subject) not in runs or (other, subject) not in runs:
            continue
        prompt, seed = int(rng.integers(len(PROMPTS))), int(rng.integers(SEEDS))
        near = [runs[method, subject][prompt][seed] for method in (one, other)]
        found.append({"subject": subject, "prompt": prompt, "seed": seed,
                      "left": str(one), "right": str(other), "near": near})  # fmt: skip
    return found


def sheet(chosen: list[dict], work: Path) -> Image.Image:
    """A column for each pair: the truth, the left picture, the right one, twice as large."""
    paper = Image.new("RGB", (264 * len(chosen), 3 * 264), "white")
    for column, pair in enumerate(chosen):
        item = next(item for item in OBJECTS if item.slug == pair["subject"])
        pictures = [truths(item, PROMPTS[pair["prompt"]])[0]]
        for side in ("left", "right"):
            path = work / pair[side] / f"{pair['subject']}-0"
            pictures.append(Image.open(path / f"{pair['prompt'] * SEEDS + pair['seed']:03d}.png"))
        for row, picture in enumerate(pictures):
            large = picture.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)
            paper.paste(large, (264 * column + 4, 264 * row + 4))
    return paper


def agreement(chosen: list[dict], answers: list[str]) -> dict:
    """Share of the judged pairs on which measure and eyes agree, of all and of the clearer half."""
    judged = [(p, a) for p, a in zip(chosen, answers, strict=True) if a in ("left", "right")]
    gaps = np.array([pair["near"][0] - pair["near"][1] for pair, _ in judged])
    same = np.array([(gap > 0) == (a == "left") for gap, (_, a) in zip(gaps, judged, strict=True)])
    clear = np.abs(gaps) >= np.median(np.abs(gaps))
    return {"pairs": len(judged), "agree": round(float(same.mean()), 3),
            "agree_clearer_half": round(float(same[clear].mean()), 3)}  # fmt: skip


def pairs_or_agreement(results: list[dict], split: str, folder: Path, work: Path) -> None:
    """Write the sheets to judge, or, where answers are, print and keep the agreement."""
    chosen = pairs(results)
    answers = folder / f"eyes-{split}-answers.json"
    if answers.is_file():
        found = agreement(chosen, json.loads(answers.read_text("utf-8")))
        (folder / f"eyes-{split}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(found)
        return
    for start in range(0, len(chosen), PER_SHEET):
        path = work / f"eyes-{start // PER_SHEET}.png"
        sheet(chosen[start : start + PER_SHEET], work).save(path)
        print(path)
