"""Memory of a training step and of generating, measured on the CPU at Stable Diffusion 1.5's size.

What the process takes at its peak beyond what it took before the base was loaded, in the stages
that `svfit info --base BASE --memory` estimates. Random weights; one photo, one step, 512 px.

    MALLOC_MMAP_THRESHOLD_=1000000 python -m benchmarks.families.memory [--generate] [FLAG ...]

FLAG: of `svfit train`, such as --gradient_checkpointing. Linux only; with that variable glibc gives
freed tensors back, where it would keep as much as a third more.
"""

from __future__ import annotations

import argparse
import gc
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import diffusers
import torch
import transformers

from benchmarks.families.true_bases import build
from benchmarks.families.true_size import photos
from svfit_diffusion.families import load_base
from svfit_diffusion.generation import generate
from svfit_diffusion.generation.pictures import size_text
from svfit_diffusion.settings import TrainConfig, add_arguments, from_arguments
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator

LOADED = diffusers.StableDiffusionPipeline, transformers.CLIPTextModel  # before memory is looked at


def status(name: str) -> int:
    """Bytes by the process's status: VmRSS, what it takes now, or VmHWM, its peak."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024


class Stages:
    """Prints the peak of each stage, beyond what the process took at the start."""

    def __init__(self) -> None:
        self.start = status("VmRSS")
        print(f"{'start':<12} {size_text(self.start)}", flush=True)
        self.begin()

    def begin(self) -> None:
        """Begin a stage: the peak is what is held now."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        self.began = time.monotonic()

    def end(self, name: str) -> None:
        """End a stage."""
        peak, held = status("VmHWM") - self.start, status("VmRSS") - self.start
        seconds = time.monotonic() - self.began
        print(
            f"{name:<12} {size_text(peak)} at most, {size_text(held)} held, {seconds:.0f} s",
            flush=True,
        )
        self.begin()


def train(config: TrainConfig) -> None:
    """Load the base, prepare a training of it, and make a step."""
    stages = Stages()
    training = Training(config, make_accelerator(config), progress=False)
    stages.end("preparing")
    training.train_step()
    stages.end("step")


@torch.no_grad()
def draw(config: TrainConfig) -> None:
    """Load the base and generate a picture in two steps."""
    stages = Stages()
    pipe = load_base(config.pretrained_model_name_or_path, quantize=config.quantize)
    pipe.set_progress_bar_config(disable=True)
    stages.end("loading")
    next(generate(pipe, "a dog", steps=2, width=config.resolution, height=config.resolution))
    stages.end("generating")


def main() -> None:
    """Build the base unless it exists, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir(), "sd15-random"))
    parser.add_argument("--generate", action="store_true")
    add_arguments(parser)
    given = parser.parse_args()
    if not (given.base / "model_index.json").is_file():
        build("Stable Diffusion 1.5", given.base)
    folder = Path(tempfile.mkdtemp())
    photos(folder / "photos")
    for extra in sorted((folder / "photos").iterdir())[1:]:
        extra.unlink()
    config = replace(
        from_arguments(given),
        pretrained_model_name_or_path=str(given.base),
        instance_data_dir=str(folder / "photos"),
        instance_prompt="a photo of sks dog",
        output_dir=str(folder / "rex"),
        resolution=given.resolution or 512,
        center_crop=True,
    )
    (draw if given.generate else train)(config)


if __name__ == "__main__":
    main()
