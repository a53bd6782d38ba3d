"""Pictures of a base while it is trained: the validation prompt, and what the app shows.

They are made of the values that the file will hold, and decoded in the VAE's own precision.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL.Image import Image

from ..concept import free_path
from ..data import together
from ..generation import NoPicture, check_picture, generate, grid, own_precision, save_png
from ..settings import TrainConfig
from .adapted_base import AdaptedBase
from .averaging import Average
from .offloading import one_at_a_time
from .result import as_written
from .validation_base import ValidationBase

log = logging.getLogger(__name__)


class Previews:
    """Generates with the models as their file would now be. size: side of a picture, in pixels."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        base: AdaptedBase,
        size: int,
        average: Average,
    ) -> None:
        self.config, self.accelerator, self.base, self.size = config, accelerator, base, size
        self.average = average
        name = config.validation_base
        self.other = ValidationBase(name, base, config.quantize, config.offload) if name else None

    @torch.no_grad()
    def sample(
        self, prompt: str, seeds: Iterable[int], steps: int | None = None
    ) -> dict[int, Image]:
        """Seed -> picture of the prompt, without those that are none, of which it warns.

        steps: of denoising; default: the base's.
        """
        given = {"steps": steps, "width": self.size, "height": self.size}
        other = self.other.with_deltas() if self.other else contextlib.nullcontext(self.base)
        with (
            as_written(self.base, self.config.delta_bits, self.average),
            other as base,
            base.evaluating(),
            one_at_a_time(base, self.config.offload),
            own_precision(base.pipe.vae),
            _own_scheduler(base.pipe),
        ):
            made = {seed: self._picture(base.pipe, prompt, seed, given) for seed in seeds}
        return {seed: image for seed, image in made.items() if image is not None}

    def _picture(
        self, pipe: Any, prompt: str, seed: int, given: dict[str, int | None]
    ) -> Image | None:
        """One picture; None, with a warning, for what is none."""
        try:
            image = next(generate(pipe, prompt, 1, seed, **given))[0]
            check_picture(image)
        except NoPicture as error:
            log.warning("seed %d: %s", seed, error)
            return None
        return image

    def validate(self, step: int) -> None:
        """Generate the validation prompt, which all processes share, and keep a grid of it."""
        config, accelerator = self.config, self.accelerator
        seeds = range(config.seed, config.seed + config.num_validation_images)
        ours = seeds[accelerator.process_index :: accelerator.num_processes]
        parts = together(accelerator, lambda: self.sample(config.validation_prompt, ours))
        made = {seed: image for part in parts for seed, image in part.items()}
        if accelerator.is_main_process and made:
            self._keep(step, dict(sorted(made.items())))

    def _keep(self, step: int, made: dict[int, Image]) -> None:
        """Store a grid of pictures, each by its seed, and log them."""
        config, images = self.config, list(made.values())
        folder = Path(config.output_dir) / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        path = free_path(folder / f"{step:06d}.png")
        save_png(grid(images, captions=[f"seed {s}" for s in made]), path)
        stack = np.stack([np.asarray(image) for image in images])
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"validation": stack}, step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"validation": list(stack)}, step)


@contextlib.contextmanager
def _own_scheduler(pipe: Any) -> Iterator[None]:
    """Let a pipeline sample with a copy of its scheduler, as sampling sets its timesteps."""
    scheduler = pipe.scheduler
    pipe.scheduler = copy.deepcopy(scheduler)
    try:
        yield
    finally:
        pipe.scheduler = scheduler
