"""What Toybox says of photos: the figures behind the product's thresholds, measured anew.

Whether it names what is behind a subject (`MIN_GAIN` of svfit_diffusion/training/backgrounds.py),
on five pictures of each dev object in known places, and what its VAE loses and a phrase saves
(`MAX_LOST`, `MIN_SAVED` of svfit_diffusion/web/studio/familiarity.py), on these and on folders of
real photos.
Run: python recipes/toybox/familiar.py [FOLDER ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from common import REPOSITORY
from objects import DEV
from PIL import Image
from subject import poses
from world import World

sys.path.insert(0, str(REPOSITORY))

from svfit_diffusion.families import TOYBOX, load_base  # noqa: E402
from svfit_diffusion.settings import TrainConfig  # noqa: E402
from svfit_diffusion.training.loop import Training  # noqa: E402
from svfit_diffusion.web.studio.familiarity import familiarity  # noqa: E402

SUBJECTS = 12
# What is behind each of the five pictures of subject.py.
BEHIND = (" on a white background", " on a beige background", " on the grass",
          " on a teal background", " on a blue to pink gradient")  # fmt: skip


def pictures(item) -> list[Image.Image]:
    """Five pictures of an object, in known places."""
    world = World((item,))
    renders = (
        world.render(np.random.default_rng(40 + i), sample)
        for i, (sample, _) in enumerate(poses(item))
    )
    return [Image.fromarray(render) for render in renders]


def named(photos: list[Image.Image]) -> tuple[str, ...]:
    """What a training says is behind each photo."""
    with tempfile.TemporaryDirectory() as folder:
        for index, photo in enumerate(photos):
            photo.save(f"{folder}/{index}.png")
        prompt = "a photo of sks toy"
        config = TrainConfig(instance_data_dir=folder, instance_prompt=prompt, output_dir=folder)
        captions = Training(config, Accelerator(cpu=True), progress=False).subject.captions()
    return tuple(caption.removeprefix(prompt) for caption in captions)


def main() -> None:
    """Print a line for each subject and folder, and the thresholds' sums."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path, help="of real photos")
    folders = parser.parse_args().folders
    pipe = load_base(TOYBOX)
    right = wrong = 0
    for item in DEV[:SUBJECTS]:
        seen, photos = familiarity(pipe, pictures(item)), pictures(item)
        said = named(photos)
        good = sum(map(str.__eq__, said, BEHIND))
        bad = sum(bool(a) and a != b for a, b in zip(said, BEHIND, strict=True))
        right, wrong = right + good, wrong + bad
        print(f"{item.name}: lost {seen.lost:.4f}, saved {seen.saved:.3f}, known {seen.known}, "
              f"{good} places right, {bad} wrong", flush=True)  # fmt: skip
    print(f"{right} of {len(BEHIND) * min(SUBJECTS, len(DEV))} places right, {wrong} wrong")
    for folder in folders:
        photos = [Image.open(path) for path in sorted(folder.iterdir()) if path.suffix != ".txt"]
        seen = familiarity(pipe, photos)
        print(f"{folder.name}: lost {seen.lost:.4f}, saved {seen.saved:.3f}, known {seen.known}")


if __name__ == "__main__":
    main()
