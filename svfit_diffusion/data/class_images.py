"""Class images, which the base generates itself, for prior preservation (arXiv 2208.12242)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..families import recognise
from ..generation import save_png
from ..settings import TrainConfig
from .examples import generator


@torch.no_grad()
def fill_class_images(
    config: TrainConfig, accelerator: Accelerator, pipe: Any, prompt: str, size: int, progress: bool
) -> None:
    """Generate class images with the base until their folder holds as many as are wanted."""
    folder = Path(config.class_data_dir)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        held = sum(p.suffix.lower() in (".png", ".jpg", ".jpeg") for p in folder.iterdir())
        names = (folder / f"class-{i:05d}.png" for i in itertools.count())
        free = (path for path in names if not path.exists())
        todo = list(itertools.islice(free, max(0, config.num_class_images - held)))
        per_call, family = config.sample_batch_size, recognise(pipe)
        steps, guidance = family.sampling(pipe)
        given = {"num_inference_steps": steps, **family.guidance_kwargs(guidance, "")}
        with tqdm(total=len(todo), desc="class images", disable=not (progress and todo)) as bar:
            for batch in [todo[i : i + per_call] for i in range(0, len(todo), per_call)]:
                seeds = [generator(config.seed, path.name) for path in batch]
                prompts = [prompt] * len(batch)
                sizes = {"height": size, "width": size}
                with accelerator.autocast():  # the VAE is in float32
                    images = pipe(prompt=prompts, generator=seeds, **sizes, **given).images
                for image, path in zip(images, batch, strict=True):
                    save_png(image, path)
                bar.update(len(batch))
    accelerator.wait_for_everyone()
