"""Evaluate concepts: generate pictures of a list of prompts with each, measure them, and show them.

The pictures are PNG files with their parameters in the output folder. So an evaluation that was
stopped continues where it was, and several processes can share the work (`accelerate launch`). The
measures are those of measures.py; `base` is the base alone, prompted with the class word.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..concept import Concept, free_path, printable, read_concept
from ..data import Photo, read_folder
from ..families import load_base
from ..generation import generate, grid, parameters, pick_dtype, read_parameters, save_png
from ..pipeline import load_concept, loaded_concepts, remove_concept
from . import measures
from .features import Clip, Extractor, load_extractor

log = logging.getLogger(__name__)
SHOWN = 200  # characters of a path
PROMPTS = (
    "a photo of {}",
    "a photo of {} on the beach",
    "a photo of {} in the snow",
    "a photo of {} at night",
    "a photo of {} on the grass",
    "a photo of {} on a red background",
)
OTHERS = ("a photo of a house", "a photo of a car on the beach", "a photo of an apple")
BASE = "base"


@dataclass(frozen=True)
class EvaluationPlan:
    """Which pictures to generate, and how to measure them.

    prompts: with `{}` in place of the subject. others: prompts without the subject, for drift.
    num: pictures per prompt, with the seeds seed, seed + 1, ... steps, guidance: None for the
    base's own. features: names of extractors (features.py); the first one measures copies, drift
    and diversity, and `clip`, if named, alignment.
    """

    prompts: tuple[str, ...] = PROMPTS
    others: tuple[str, ...] = OTHERS
    num: int = 4
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    features: tuple[str, ...] = ("dino", "clip")

    def __post_init__(self) -> None:
        if not self.prompts or any("{}" not in prompt for prompt in self.prompts):
            raise ValueError(
                "each prompt must contain {} in place of the subject, as in "
                f"'a photo of {{}} on the beach'; got {list(self.prompts)[:3]}."
            )
        if self.num < 2:
            raise ValueError(
                f"num is {self.num}, but diversity needs at least 2 pictures a prompt."
            )
        if not self.features:
            raise ValueError("no feature extractor is named; name one, such as dino.")


@dataclass
class Row:
    """The measures of one concept, or of the base. likeness: extractor name -> its likeness."""

    name: str
    bytes: int = 0
    values: int = 0
    likeness: dict[str, measures.Likeness] = field(default_factory=dict)
    alignment: float | None = None
    drift: float = 0.0
    diversity: float = 0.0


def read_references(folder: str | Path, masks: str | Path | None = None) -> list[Image.Image]:
    """The pictures of a folder, cut to the subject if the folder `masks` has a mask of their name.

    Raises ValueError when there are fewer than two pictures, or no mask for any of them.
    """
    photos, _ = read_folder(folder)
    if len(photos) < 2:
        raise ValueError(f"{folder} holds one picture of the subject, but two or more are needed.")
    if masks is None:
        return [photo.image for photo in photos]
    held = {path.stem: path for path in sorted(Path(masks).iterdir())}
    if not any(photo.path.stem in held for photo in photos):
        raise ValueError(f"{masks} has no mask that is named like a picture in {folder}.")
    return [_cut(photo, held.get(photo.path.stem)) for photo in photos]


def _cut(photo: Photo, mask: Path | None) -> Image.Image:
    if mask is None:
        return photo.image
    with Image.open(mask) as opened:
        return measures.masked(photo.image, opened)


def evaluate(
    base: str,
    concepts: Sequence[str | Path],
    references: Sequence[Image.Image],
    training: Sequence[Image.Image],
    output_dir: str | Path,
    plan: EvaluationPlan | None = None,
    device: str = "cpu",
    progress: bool = True,
    overwrite: bool = False,
) -> list[Row]:
    """Generate and measure pictures of the base and each concept; writes scores.json, sheet.png.

    references: pictures of the subject to compare with. training: the pictures it was learned
    from. All concepts of a call must be of the same subject. What the folder holds is kept, unless
    `overwrite` is set: scores get another name, and a picture of other settings is an error. Raises
    ValueError for unusable input.
    """
    plan, folder = plan or EvaluationPlan(), Path(output_dir)
    if not concepts:
        raise ValueError("no concept is given; name at least one concept file.")
    files = [(Path(path), read_concept(path)) for path in concepts]
    extractors = {name.partition("=")[0]: load_extractor(name, device) for name in plan.features}
    pipe = load_base(base, pick_dtype(device)).to(device)
    pipe.set_progress_bar_config(disable=True)
    word = files[0][1].class_word or "thing"
    generated = functools.partial(_generate_all, progress=progress, overwrite=overwrite)
    paths = {BASE: generated(pipe, plan, word, None, folder)}
    for path, concept in files:
        paths[_label(path)] = generated(pipe, plan, concept.trigger, path, folder)
    state = PartialState()
    state.wait_for_everyone()
    if not state.is_main_process:
        return []
    pictures = {name: [_open(path) for path in found] for name, found in paths.items()}
    rows = _score(plan, extractors, pictures, files, list(references), list(training), word)
    scores = {"base": base, "plan": asdict(plan), "rows": [asdict(row) for row in rows]}
    name = Path if overwrite else free_path
    table, sheet = name(folder / "scores.json"), name(folder / "sheet.png")
    table.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    save_png(_sheet(plan, pictures), sheet)
    log.info("%s, %s", printable(str(sheet), SHOWN), printable(str(table), SHOWN))
    return rows


def _label(path: Path) -> str:
    """The name of a concept's folder, which depends on the file's contents."""
    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def _generate_all(
    pipe: Any,
    plan: EvaluationPlan,
    words: str,
    concept: Path | None,
    folder: Path,
    progress: bool,
    overwrite: bool,
) -> list[Path]:
    """The paths of all pictures, prompts first, then the others; generates this process's share.

    ValueError where one of other settings is there, unless it may be overwritten.
    """
    name = _label(concept) if concept else BASE
    prompts = [*(prompt.replace("{}", words) for prompt in plan.prompts), *plan.others]
    jobs = [(i, k) for i in range(len(prompts)) for k in range(plan.num)]
    paths = [folder / name / f"{i:03d}-{plan.seed + k}.png" for i, k in jobs]
    (folder / name).mkdir(parents=True, exist_ok=True)
    state = PartialState()
    mine = list(zip(jobs, paths, strict=True))[state.process_index :: state.num_processes]
    given = {"steps": plan.steps, "guidance": plan.guidance}
    with _loaded(pipe, concept), tqdm(mine, desc=name, disable=not progress) as bar:
        for (i, k), path in bar:
            wanted = parameters(pipe, prompts[i], plan.seed + k, **given)
            there = path.is_file()
            if there and not overwrite and _is_whole(path) and _parameters(path) != wanted:
                raise ValueError(
                    f"{path} is there already, of other settings; pass another --output_dir, or "
                    "--overwrite to replace it."
                )
            if not there or _parameters(path) != wanted:
                image, made = next(generate(pipe, prompts[i], 1, plan.seed + k, **given))
                save_png(image, path, made)
    return paths


@contextlib.contextmanager
def _loaded(pipe: Any, concept: Path | None):
    """Keep the concept loaded during the block."""
    name = load_concept(pipe, concept) if concept else None
    try:
        yield
    finally:
        if name in loaded_concepts(pipe):
            remove_concept(pipe, name)


def _parameters(path: Path) -> Any:
    try:
        return read_parameters(path)
    except (OSError, ValueError):
        return None  # an incomplete or foreign file, which will be generated again


def _is_whole(path: Path) -> bool:
    try:
        return bool(_open(path))
    except OSError:
        return False


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _score(
    plan: EvaluationPlan,
    extractors: dict[str, Extractor],
    pictures: dict[str, list[Image.Image]],
    files: list[tuple[Path, Concept]],
    references: list[Image.Image],
    training: list[Image.Image],
    word: str,
) -> list[Row]:
    """One row for the base and one for each concept."""
    count, first = len(plan.prompts) * plan.num, next(iter(extractors))
    words = {BASE: word} | {_label(path): concept.class_word or word for path, concept in files}
    rows = {name: Row(name) for name in pictures}
    for path, concept in files:
        row = rows[_label(path)]
        row.bytes, row.values = path.stat().st_size, concept.values
    for kind, extractor in extractors.items():
        seen = {name: extractor.features(images) for name, images in pictures.items()}
        real, photos = extractor.features(references), extractor.features(training)
        for name, row in rows.items():
            subject = seen[name][:count]
            row.likeness[kind] = measures.likeness(subject, seen[BASE][:count], real, photos)
            if kind == first:
                row.drift = measures.drift(seen[name][count:], seen[BASE][count:])
                row.diversity = measures.diversity(subject, plan.num)
            if isinstance(extractor, Clip):
                row.alignment = measures.alignment(subject, _texts(extractor, plan, words[name]))
    return list(rows.values())


def _texts(extractor: Clip, plan: EvaluationPlan, word: str) -> Tensor:
    """Features of the prompts with the class word as the subject, as CLIP knows no triggers."""
    return extractor.texts([p.replace("{}", word) for p in plan.prompts]).repeat_interleave(
        plan.num, 0
    )


def _sheet(plan: EvaluationPlan, pictures: dict[str, list[Image.Image]]) -> Image.Image:
    """The first seed of every prompt, with a row for the base and for each concept."""
    lines = [images[: len(plan.prompts) * plan.num : plan.num] for images in pictures.values()]
    captions = [f"{name}: {p.replace('{}', '…')}" for name in pictures for p in plan.prompts]
    return grid([image for line in lines for image in line], len(plan.prompts), captions)
