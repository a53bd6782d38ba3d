"""`svfit demo`: five photos, a file of a few kilobytes, and the subject in eight new scenes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import TrainConfig
from .paths import add_overwrite, expanded, filled, output_path
from .terminal import quiet_libraries
from .train import report

if TYPE_CHECKING:
    from ..training import Trained

SCENES = (
    "a photo of {} on the beach",
    "a photo of {} in the snow",
    "a photo of {} at night",
    "a photo of {} at sunset",
    "a photo of {} on a plain yellow background",
    "a photo of {} on a green background",
    "a photo of {} in the sea",
    "a photo of {} on a purple background",
)
SEED = 1


@dataclass(frozen=True)
class Demo:
    """What a demo made: the training's result, the scenes' PNGs and the sheet."""

    trained: Trained
    scenes: tuple[Path, ...]
    sheet: Path


def add_command(commands: Any) -> None:
    """Add `demo` to the commands."""
    command = commands.add_parser("demo", help="learn the sample subject and show it, offline")
    command.add_argument(
        "--output_dir", type=expanded, help="folder of all that is made (default: svfit-demo)"
    )
    add_overwrite(command, "what the folder holds")
    command.add_argument("--max_train_steps", type=int, help="optimizer steps, for a quick look")
    command.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    folder = output_path(arguments.output_dir, "svfit-demo", arguments.overwrite, filled)
    quiet_libraries()
    return report(run_demo(str(folder), arguments.max_train_steps).trained)


def run_demo(
    output_dir: str, max_train_steps: int | None = None, say: Callable[[str], None] = print
) -> Demo:
    """Train the sample subject on Toybox, then generate it with a freshly loaded base."""
    from ..data import read_folder
    from ..families import load_base
    from ..generation import generate, save_png, sheet, size_text
    from ..pipeline import load_concept
    from ..training import SAMPLE, sample_folder, train

    folder = Path(output_dir)
    steps = {"max_train_steps": max_train_steps} if max_train_steps else {}
    photos, _ = read_folder(sample_folder())
    say(f"1/3  learning the sample subject from {len(photos)} pictures, on Toybox")
    trained = train(TrainConfig(output_dir=str(folder / SAMPLE), **steps))
    size = trained.path.stat().st_size
    say(f"2/3  {trained.path}: {size_text(size)}, {trained.concept.values:,} values")
    say(f"3/3  generating {len(SCENES)} scenes with a fresh base and that file")
    pipe, pictures = load_base("toybox"), []
    prompts = [scene.format(trained.concept.trigger) for scene in SCENES]
    before, made = next(generate(pipe, prompts[0], seed=SEED))
    save_png(before, folder / "base.png", made)
    load_concept(pipe, trained.path, name=SAMPLE)
    for i, prompt in enumerate(prompts):
        image, made = next(generate(pipe, prompt, seed=SEED))
        save_png(image, folder / f"scene-{i}.png", made)
        pictures.append((image, prompt))
    path = folder / "sheet.png"
    images = [photo.image for photo in photos]
    save_png(sheet(images, trained.path.name, size, (before, prompts[0]), pictures), path)
    say(f"done: look at {path}")
    return Demo(trained, tuple(folder / f"scene-{i}.png" for i in range(len(prompts))), path)
