"""Stable Diffusion 1.5's true configuration with random weights: two training steps at 512 px.

Prints the number of values, the bytes of the file, peak memory and seconds. Random weights say
nothing about likeness; sizes, memory and the code that runs are those of the real base.

    python -m benchmarks.families.true_size [--base FOLDER] [--rank 16] [--steps 2]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from benchmarks.families.true_bases import build
from svfit_diffusion import TrainConfig, train
from svfit_diffusion.generation.pictures import size_text


def photos(folder: Path) -> None:
    """Five pictures of 600 x 512 px."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(5):
        image = Image.new("RGB", (600, 512), (40 * i, 90, 200 - 30 * i))
        ImageDraw.Draw(image).ellipse((100 + 20 * i, 120, 400, 420), fill=(220, 60, 40))
        image.save(folder / f"{i}.png")


def main() -> None:
    """Build the base unless it exists, train, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir(), "sd15-random"))
    parser.add_argument("--rank", default="16")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    if not (given.base / "model_index.json").is_file():
        build("Stable Diffusion 1.5", given.base)
    folder = Path(tempfile.mkdtemp())
    photos(folder / "photos")
    begin = time.perf_counter()
    result = train(
        TrainConfig(
            pretrained_model_name_or_path=str(given.base),
            instance_data_dir=str(folder / "photos"),
            instance_prompt="a photo of sks dog",
            output_dir=str(folder / "rex"),
            rank=given.rank,
            max_train_steps=given.steps,
            train_batch_size=given.batch,
            center_crop=True,
            gradient_checkpointing=True,
        )
    )
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"values   {result.concept.values:,} ({result.concept.deltas.size:,} singular values)")
    print(f"file     {result.path.stat().st_size:,} bytes")
    print(f"memory   {size_text(peak)} peak of the process, base included")
    print(f"seconds  {seconds:.0f} in all, {given.steps} steps of batch {given.batch} at 512 px")
    print(f"threads  {torch.get_num_threads()}")
    print(f"loss     {result.loss_before:.4f} -> {result.loss_after:.4f} on held-out noise")


if __name__ == "__main__":
    main()
