"""What Toybox says of photos: the figures behind the product's thresholds, measured anew.

Whether it names what is behind a subject (`MIN_GAIN` of svfit_diffusion/training/backgrounds.py),
on five pictures of each dev object in known places; what its VAE loses and a phrase saves, on these
and on folders of real photos, and what the page guesses of their places (`MAX_LOST`, `MIN_SAVED`,
`CLEAR` of svfit_diffusion/web/studio/familiarity.py).
Run: python recipes/toybox/familiar.py [FOLDER ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from accelerate import Accelerator
from common import REPOSITORY
from objects import DEV
from PIL import Image
from subject import renders

sys.path.insert(0, str(REPOSITORY))

from svfit_diffusion.families import TOYBOX, load_base  # noqa: E402
from svfit_diffusion.settings import TrainConfig  # noqa: E402
from svfit_diffusion.training.loop import Training  # noqa: E402
from svfit_diffusion.web.studio.familiarity import familiarity  # noqa: E402

SUBJECTS = 12
# What is behind each of the five pictures of subject.py.
BEHIND = (" on a white background", " on a beige background", " on the grass",
          " on a teal background", " on a blue to pink gradient")  # fmt: skip


def named(photos: list[Image.Image]) -> tuple[str, ...]:
    """What a training says is behind each photo."""
    with tempfile.TemporaryDirectory() as folder:
        for index, photo in enumerate(photos):
            photo.save(f"{folder}/{index}.png")
        prompt = "a photo of sks toy"
        config = TrainConfig(instance_data_dir=folder, instance_prompt=prompt, output_dir=folder)
        captions = Training(config, Accelerator(cpu=True), progress=False).subject.captions()
    return tuple(caption.removeprefix(prompt) for caption in captions)


def score(said: Iterable[str]) -> tuple[int, int]:
    """How many of five places are right, and how many wrong; what is not said is neither."""
    pairs = [(words.strip(), true.strip()) for words, true in zip(said, BEHIND, strict=True)]
    right = sum(words == true for words, true in pairs)
    return right, sum(bool(words) for words, _ in pairs) - right


def main() -> None:
    """Print a line for each subject and folder, and the thresholds' sums."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path, help="of real photos")
    folders = parser.parse_args().folders
    pipe = load_base(TOYBOX)
    named_all, guessed_all = [], []
    for item in DEV[:SUBJECTS]:
        photos = [Image.fromarray(render) for render in renders(item)]
        seen, places = familiarity(pipe, photos), score(named(photos))
        guesses = score(familiarity(pipe, [photo]).phrases[0] for photo in photos)
        print(f"{item.name}: lost {seen.lost:.4f}, saved {seen.saved:.3f}, known {seen.known}, "
              f"places right, wrong {places}, guesses {guesses}", flush=True)  # fmt: skip
        named_all.append(places)
        guessed_all.append(guesses)
    for kind, found in (("places", named_all), ("guesses", guessed_all)):
        right, wrong = map(sum, zip(*found, strict=True))
        print(f"{kind}: {right} of {len(BEHIND) * len(found)} right, {wrong} wrong")
    for folder in folders:
        photos = [Image.open(path) for path in sorted(folder.iterdir()) if path.suffix != ".txt"]
        seen = familiarity(pipe, photos)
        print(f"{folder.name}: lost {seen.lost:.4f}, saved {seen.saved:.3f}, known {seen.known}")


if __name__ == "__main__":
    main()
