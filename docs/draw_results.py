"""Draws docs/results.png: what good and bad photos, captions and rates look like, on Toybox.

    python docs/draw_results.py

Each row learns the sample's robot anew: its photos, and the same scenes with what was learned.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from svfit_diffusion.families import load_base
from svfit_diffusion.generation import generate, grid, save_png
from svfit_diffusion.pipeline import load_concept, remove_concept
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training import sample_folder, train

PAGE = Path(__file__).with_name("results.png")
SCENES = ("on a white background", "on the beach", "at night")
SIDE = 128  # px


@dataclass(frozen=True)
class Row:
    """What is said of it, the sample's photos that it learns from, and its settings."""

    name: str
    photos: tuple[int, ...] = (0, 1, 2, 3, 4)
    settings: dict = field(default_factory=dict)


ROWS = (
    Row("five photos, as by default"),
    Row("20 steps: too short", settings={"max_train_steps": 20}),
    Row(
        "8 times the rate, no decay: too strong",
        settings={"learning_rate": 8 * TrainConfig().rates[0], "adam_weight_decay": 0.0},
    ),
    Row("backgrounds not named", settings={"caption_backgrounds": False}),
    Row("one photo, background not named", (2,), {"caption_backgrounds": False}),
)


def learned(photos: list[Path], settings: dict, folder: Path) -> Path:
    """The concept of a row."""
    instance = folder / "photos"
    instance.mkdir(parents=True)
    for photo in photos:
        shutil.copy(photo, instance)
    return train(
        TrainConfig(
            instance_data_dir=str(instance),
            instance_prompt="a photo of sks toy",
            output_dir=str(folder / "concept"),
            **settings,
        )
    ).path


def main() -> None:
    """Train every row and draw the page."""
    photos = sorted(sample_folder().glob("*.png"))
    pipe, pictures, captions = load_base("toybox"), [], []
    with tempfile.TemporaryDirectory() as place:
        for number, row in enumerate(ROWS):
            chosen = [photos[i] for i in row.photos]
            name = load_concept(pipe, learned(chosen, row.settings, Path(place) / str(number)))
            shown = grid([Image.open(photo) for photo in chosen], min(3, len(chosen)))
            pictures.append(shown.resize((SIDE, SIDE * shown.height // shown.width)))
            captions.append(row.name)
            for scene in SCENES:
                pictures.append(next(generate(pipe, f"a photo of sks toy {scene}", seed=1))[0])
                captions.append(scene)
            remove_concept(pipe, name)
    save_png(grid(pictures, 1 + len(SCENES), captions, 2 * SIDE), PAGE)


if __name__ == "__main__":
    main()
