"""Pictures of a base while it is trained: the validation prompt, and what the app shows."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL.Image import Image

from ..concept import free_path
from ..data import together
from ..generation import generate, grid, save_png
from ..settings import TrainConfig
from .adapted_base import AdaptedBase


class Previews:
    """Generates with the models as they now are. size: side of a picture, in pixels."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, base: AdaptedBase, size: int
    ) -> None:
        self.config, self.accelerator, self.base, self.size = config, accelerator, base, size

    @torch.no_grad()
    def sample(self, prompt: str, seeds: Iterable[int], steps: int | None = None) -> list[Image]:
        """A picture of the prompt for each seed. steps: of denoising; default: the base's."""
        pipe, given = self.base.pipe, {"steps": steps, "width": self.size, "height": self.size}
        scheduler = pipe.scheduler
        pipe.scheduler = copy.deepcopy(scheduler)  # sampling sets its timesteps
        try:
            with self.base.one_at_a_time(self.config.offload), self.accelerator.autocast():
                return [next(generate(pipe, prompt, 1, seed, **given))[0] for seed in seeds]
        finally:
            pipe.scheduler = scheduler

    def validate(self, step: int) -> None:
        """Generate the validation prompt, which all processes share, and keep a grid of it."""
        config, accelerator = self.config, self.accelerator
        seeds = range(config.seed, config.seed + config.num_validation_images)
        ours = seeds[accelerator.process_index :: accelerator.num_processes]

        def sample() -> dict[int, Image]:
            return dict(zip(ours, self.sample(config.validation_prompt, ours), strict=True))

        made = {
            seed: image for part in together(accelerator, sample) for seed, image in part.items()
        }
        if accelerator.is_main_process:
            self._keep(step, [made[seed] for seed in seeds])

    def _keep(self, step: int, images: list[Image]) -> None:
        """Store a grid of pictures of consecutive seeds, and log them."""
        config = self.config
        seeds = range(config.seed, config.seed + len(images))
        folder = Path(config.output_dir) / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        path = free_path(folder / f"{step:06d}.png")
        save_png(grid(images, captions=[f"seed {s}" for s in seeds]), path)
        stack = np.stack([np.asarray(image) for image in images])
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"validation": stack}, step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"validation": list(stack)}, step)
