"""The DreamBooth benchmark with one command: train 30 subjects, generate, measure, average.

Each subject has a folder for its concept and pictures; existing files are not made again. With
`accelerate launch`, all processes share the trainings and the generation.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import PartialState

from ..concept import free_path
from ..generation import pick_device
from ..settings import TrainConfig
from ..training import train
from . import dreambooth_prompts as protocol
from .comparison import BASE, EvaluationPlan, Row, evaluate, read_references

TOKEN = "sks"


def run_dreambooth(
    base: str,
    dataset: Path,
    output: Path,
    plan: EvaluationPlan,
    max_train_steps: int | None = None,
    mixed_precision: str | None = None,
) -> dict[str, float]:
    """Means over all subjects: the raw cosine of each extractor, and CLIP's alignment.

    dataset: a folder with a folder of photos for each of `protocol.SUBJECTS`. plan: its prompts are
    replaced by those of the benchmark. Writes scores.json into `output`. Returns an empty result
    in all processes but the main one. Raises ValueError when a subject is missing.
    """
    if missing := [name for name in protocol.SUBJECTS if not (dataset / name).is_dir()]:
        raise ValueError(
            f"{dataset} has no folder {missing[0]!r} ({len(missing)} of 30 subjects are missing); "
            "pass the folder 'dataset' of a copy of google/dreambooth."
        )
    rows: dict[str, Row] = {}
    for name, word in protocol.SUBJECTS.items():
        photos, folder = dataset / name, output / name
        file = _concept(base, photos, folder, word, max_train_steps, mixed_precision)
        asked = replace(plan, prompts=protocol.prompts(word), num=protocol.PICTURES)
        references = read_references(photos)
        measured = evaluate(base, [file], references, references, folder, asked, pick_device())
        rows.update((name, row) for row in measured if row.name != BASE)
    if not PartialState().is_main_process:
        return {}
    summary = _means(list(rows.values()))
    text = json.dumps({"base": base, "subjects": len(rows), "means": summary}, indent=1)
    free_path(output / "scores.json").write_text(text + "\n", encoding="utf-8")
    return summary


def _concept(
    base: str, photos: Path, folder: Path, word: str, steps: int | None, precision: str | None
) -> Path:
    """The subject's concept file; it is trained unless it exists."""
    config = TrainConfig(
        pretrained_model_name_or_path=base,
        instance_data_dir=str(photos),
        instance_prompt=f"a photo of {TOKEN} {word}",
        placeholder_token=TOKEN,
        initializer_token=word,
        output_dir=str(folder),
        mixed_precision=precision,
        resume_from_checkpoint="latest",
        **({"max_train_steps": steps} if steps else {}),
    )
    return config.concept_path if config.concept_path.is_file() else train(config).path


def _means(rows: list[Row]) -> dict[str, float]:
    kinds = list(rows[0].likeness)
    found = {kind: [row.likeness[kind].raw for row in rows] for kind in kinds}
    if rows[0].alignment is not None:
        found["clip text"] = [row.alignment for row in rows]
    return {name: float(np.mean(values)) for name, values in found.items()}
