"""Class images, which the base generates itself, for prior preservation (arXiv 2208.12242).

Each carries the parameters that made it, as every picture of ours does: prompt, base, size and
seed. So a folder of another class, or of another base, is recognised and refused. Pictures that
somebody else put there are used as they are.
"""

from __future__ import annotations

import itertools
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from tqdm.auto import tqdm

from ..families import recognise
from ..generation import (
    NoPicture,
    Parameters,
    check_picture,
    own_precision,
    parameters,
    read_parameters,
    save_png,
)
from ..settings import TrainConfig
from .examples import seed_of
from .processes import by_main, together
from .reading import photo_suffixes

log = logging.getLogger(__name__)
OURS = re.compile(r"class-\d{5}\.png")


def count_class_images(folder: str | Path) -> int:
    """How many pictures a folder holds; 0 if there is none."""
    folder = Path(folder)
    return len(_pictures(folder)) if folder.is_dir() else 0


def check_class_folder(config: TrainConfig) -> None:
    """Refuse the folder of the photos as that of the class images."""
    folder, photos = config.class_data_dir, config.instance_data_dir
    if folder and photos and Path(folder).resolve() == Path(photos).resolve():
        raise ValueError(
            f"class_data_dir {folder} is the folder of the photos, so the subject would be trained "
            "as its own class; pass another folder for the class images."
        )


@torch.no_grad()
def fill_class_images(
    config: TrainConfig, accelerator: Accelerator, pipe: Any, prompt: str, size: int, progress: bool
) -> None:
    """Generate class images with the base until their folder holds as many as are wanted; all
    processes share the work.

    ValueError where it holds some of another prompt, base or size, and where a picture is none.
    """
    check_class_folder(config)
    wanted = parameters(pipe, prompt, width=size, height=size)
    missing = by_main(accelerator, lambda: _missing(config, wanted))
    ours = missing[accelerator.process_index :: accelerator.num_processes]
    bar = progress and accelerator.is_main_process

    def generate() -> None:
        with own_precision(pipe.vae):
            _generate(pipe, wanted, ours, config, bar)

    together(accelerator, generate)


def _missing(config: TrainConfig, wanted: Parameters) -> list[Path]:
    """Where to store the class images that are still to be generated, in a folder that is fit."""
    folder = Path(config.class_data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    held = _pictures(folder)
    _check_made_by(held, wanted, config.seed)
    names = (folder / f"class-{i:05d}.png" for i in itertools.count())
    free = (path for path in names if not path.exists())
    return list(itertools.islice(free, max(0, config.num_class_images - len(held))))


def _generate(
    pipe: Any, wanted: Parameters, paths: list[Path], config: TrainConfig, progress: bool
) -> None:
    """Generate a class image for each path, `sample_batch_size` at a time."""
    family = recognise(pipe)
    given = family.call_kwargs(pipe, wanted.width, wanted.height)
    given |= family.guidance_kwargs(wanted.guidance, "") | {"num_inference_steps": wanted.steps}
    count = config.sample_batch_size
    with tqdm(total=len(paths), desc="class images", disable=not (progress and paths)) as bar:
        for batch in (paths[i : i + count] for i in range(0, len(paths), count)):
            seeds = [seed_of(config.seed, path.name) for path in batch]
            random = [torch.Generator().manual_seed(seed) for seed in seeds]
            prompts = [wanted.prompt] * len(batch)
            images = pipe(prompt=prompts, generator=random, **given).images
            for image, path, seed in zip(images, batch, seeds, strict=True):
                check_picture(image)
                save_png(image, path, replace(wanted, seed=seed))
            bar.update(len(batch))


def _check_made_by(paths: list[Path], wanted: Parameters, seed: int) -> None:
    """ValueError for class images of another prompt, base or size; says which others are used."""
    others, unknown = 0, 0
    for path in paths:
        made = _read(path) if OURS.fullmatch(path.name) else None
        if made is None:
            unknown += 1
            continue
        for name, ours in (("prompt", "prompt"), ("base", "base"), ("size", "width")):
            if getattr(made, ours) != getattr(wanted, ours):
                raise ValueError(
                    f"{path} is a class image of the {name} {getattr(made, ours)!r}, and not of "
                    f"{getattr(wanted, ours)!r}; pass another class_data_dir, or delete it."
                )
        _check_stored(path)
        others += made.seed != seed_of(seed, path.name)
    if unknown:
        log.info("%d class images that were not generated here are used as they are.", unknown)
    if others:
        log.info("%d class images of another --seed are used.", others)


def _check_stored(path: Path) -> None:
    """ValueError for a class image of one colour, as a base in half precision may have given."""
    with Image.open(path) as image:
        try:
            check_picture(image)
        except NoPicture:
            raise ValueError(
                f"{path} is of one colour, so it would be trained on for nothing; delete it, and "
                "another is generated."
            ) from None


def _read(path: Path) -> Parameters | None:
    try:
        return read_parameters(path)
    except (OSError, ValueError):  # somebody's picture
        return None


def _pictures(folder: Path) -> list[Path]:
    suffixes = photo_suffixes()
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
