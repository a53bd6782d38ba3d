"""The subjects of the likeness comparison, and the measures of their pictures.

Subjects are objects that no part of Toybox was trained on: `dev` ones, on which everything is
chosen, and `sealed` ones for the final table. Toybox's pictures are rendered, so a true picture
exists for each prompt, and backgrounds, styles and second objects can be checked. An earlier set of
sealed objects, seen in earlier tables, is not used any more.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from captions import caption
from judge import Backgrounds, Recogniser, border_colour
from objects import BY_NAME, DEV, SEALED2, TRAIN, ToyObject
from PIL import Image
from subject import renders
from torch import Tensor
from torch.nn.functional import normalize
from vae_model import to_tensor
from world import Placed, Sample, World

from svfit_diffusion.evaluation.features import EfficientNetLite0Grid, Extractor
from svfit_diffusion.evaluation.measures import among, cosines

SPLITS = {"dev": DEV, "sealed": SEALED2}
SECOND = "apple"  # the other object of a prompt: a training one
COMPOSITIONS, VIEWS = 24, 4
OTHER_OBJECTS = 24  # training objects, whose mean feature does not count as likeness
BOX = {False: (16, 16, 112, 112), True: (0, 32, 64, 96)}  # of the subject: alone, beside a second
GRAY = 12.0  # mean distance of a pixel's channels from its mean, below which a picture is grey


@dataclass(frozen=True)
class Prompt:
    """A prompt, with {} for the subject, and what its picture must show."""

    words: str
    kind: str = "plain"
    colours: tuple[str, ...] = ()
    style: str = "photo"
    second: bool = False


PROMPTS = (
    Prompt("a photo of {} on a white background", colours=("white",)),
    Prompt("a photo of {} on a red background", colours=("red",)),
    Prompt("a photo of {} on the beach", "beach"),
    Prompt("a photo of {} on the grass", "grass"),
    Prompt("a photo of {} in the snow", "snow"),
    Prompt("a photo of {} at night", "night"),
    Prompt("a photo of {} at sunset", "sunset"),
    Prompt("a photo of {} on blue and white stripes", "stripes", ("blue", "white")),
    Prompt(
        "a pencil sketch of {} on a white background", colours=("white",), style="pencil sketch"
    ),
    Prompt(
        "a photo of {} on the left and an apple on the right on a yellow background",
        colours=("yellow",),
        second=True,
    ),
)
OTHERS = (
    "a photo of a house on the grass",
    "a photo of a car on a white background",
    "a photo of a dog on the beach",
    "a photo of an airplane at sunset",
)


def subjects(split: str, count: int) -> tuple[ToyObject, ...]:
    """The first object of each cluster, then the second of each, and so on, up to `count`."""
    seen: dict[str, int] = {}
    order = []
    for place, item in enumerate(SPLITS[split]):
        seen[item.cluster] = seen.get(item.cluster, 0) + 1
        order.append((seen[item.cluster], place, item))
    return tuple(item for _, _, item in sorted(order, key=lambda entry: entry[:2])[:count])


def photos(item: ToyObject) -> list[Image.Image]:
    """Five training pictures, 128 px."""
    return [Image.fromarray(render) for render in renders(item)]


def compositions(item: ToyObject) -> tuple[list[Image.Image], list[str]]:
    """Pictures of the subject that were not trained on, and their prompts, with {} for it."""
    nameless, rng = replace(item, name="{}", kind="{}"), np.random.default_rng(70)
    world, pictures, words = World((nameless,)), [], []
    while len(pictures) < COMPOSITIONS:
        sample = world.draw(rng, 0.7, 0.5)
        thing = sample.things[0]
        if len(sample.things) > 1 or thing.tint or thing.turn_word:
            continue
        pictures.append(Image.fromarray(world.render(rng, sample)))
        words.append(caption(rng, sample).replace("a {}", "{}"))
    return pictures, words


@functools.cache
def truths(item: ToyObject, prompt: Prompt, views: int = VIEWS) -> tuple[Image.Image, ...]:
    """True pictures for the prompt, in several poses."""
    rng, world = np.random.default_rng(90), World((item, BY_NAME[SECOND]))
    pictures = []
    for _ in range(views):
        side, row = rng.uniform(84, 100), 64.0
        things = [Placed(item, side, row + rng.normal(0, 3), 64 + rng.normal(0, 3))]
        if prompt.second:
            things = [Placed(item, 64, 64, 32), Placed(BY_NAME[SECOND], 64, 64, 96)]
            things[0].side += rng.uniform(-4, 4)
        if prompt.kind in ("beach", "grass", "snow", "night", "sunset"):
            things[0].row += (122 - things[0].side / 2 - things[0].row) * 0.65
        sample = Sample(prompt.kind, prompt.colours, prompt.style, things)
        pictures.append(Image.fromarray(world.render(rng, sample)))
    return tuple(pictures)


@torch.inference_mode()
def decoded_pictures(vae, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Pictures sent through a VAE: encoded and decoded."""
    x = to_tensor(np.stack([np.asarray(picture) for picture in pictures]))
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    arrays = ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in arrays]


def others() -> list[ToyObject]:
    """Training objects of all kinds."""
    return [item for item in TRAIN if item.name != SECOND][:: len(TRAIN) // OTHER_OBJECTS]


class SubjectPart:
    """Features of the part of a prompt's pictures where the subject should be.

    Minus their mean over true pictures of other objects: what all objects have in common, such as
    background and sharpness, does not count as likeness.
    """

    def __init__(self, see: Extractor) -> None:
        self.see, self.common = see, {}

    def features(self, pictures: Sequence[Image.Image], prompt: Prompt) -> Tensor:
        """Unit features [pictures, width]."""
        if prompt not in self.common:
            true = [truths(item, prompt, 1)[0] for item in others()]
            self.common[prompt] = self._cut(true, prompt).mean(0)
        return normalize(self._cut(pictures, prompt) - self.common[prompt], dim=1)

    def _cut(self, pictures: Sequence[Image.Image], prompt: Prompt) -> Tensor:
        box = BOX[prompt.second]
        return self.see.features([picture.convert("RGB").crop(box) for picture in pictures])


class Judge:
    """Measures of the pictures of one subject; each prompt's pictures are consecutive."""

    def __init__(self, item: ToyObject, base: list[Image.Image], seeds: int) -> None:
        self.seeds, self.part = seeds, _part()
        true = [truths(item, prompt) for prompt in PROMPTS]
        pairs = zip(true, PROMPTS, strict=True)
        self.references = [self.part.features(pictures, prompt) for pictures, prompt in pairs]
        self.real = [among(reference) for reference in self.references]
        self.training = self.features(photos(item))
        self.real_copy = float(self.copies(self.features(sum(true, ()))).mean())
        self.base = self.near(base)

    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit features of whole pictures [pictures, width]."""
        return self.part.see.features(pictures)

    def near(self, pictures: list[Image.Image]) -> np.ndarray:
        """Mean cosine of each picture's part with its prompt's true pictures: [prompts, seeds]."""
        rows = []
        for i, prompt in enumerate(PROMPTS):
            own = pictures[i * self.seeds : (i + 1) * self.seeds]
            rows.append(cosines(self.part.features(own, prompt), self.references[i]).numpy())
        return np.stack(rows)

    def fidelity(self, pictures: list[Image.Image]) -> np.ndarray:
        """[prompts, seeds]: 0 is the mean of the base's pictures, 1 that of true pictures.

        All prompts have one scale, so a prompt that the base gets right has little weight.
        """
        scale = np.mean(self.real) - self.base.mean()
        if scale <= 0:
            raise ValueError("The base already generates this subject; fidelity has no scale.")
        return (self.near(pictures) - self.base.mean(1, keepdims=True)) / scale

    def copies(self, features: Tensor) -> np.ndarray:
        """The largest cosine of each picture with a training photo: [pictures]."""
        return (features @ self.training.T).amax(1).numpy()

    def aligned(self, pictures: list[Image.Image]) -> np.ndarray:
        """[prompts, seeds]: fraction of what the prompt asks for, besides the subject, that is
        recognised.
        """
        recogniser, backgrounds = _recognisers()
        kinds = backgrounds.kinds(pictures)
        rows = []
        for index, picture in enumerate(pictures):
            prompt = PROMPTS[index // self.seeds]
            marks = []
            if prompt.style == "photo":
                marks.append(kinds[index] == prompt.kind)
            else:
                array = np.asarray(picture.convert("RGB"), np.float32)
                marks.append(np.abs(array - array.mean(2, keepdims=True)).mean() < GRAY)
            if prompt.kind == "plain":
                marks.append(border_colour(picture) == prompt.colours[0])
            if prompt.second:
                half = picture.resize((128, 128)).crop((64, 32, 128, 96))
                marks.append(recogniser.ranks([half], [SECOND])[0] <= 5)
            rows.append(np.mean(marks))
        return np.array(rows).reshape(-1, self.seeds)


@functools.cache
def _part() -> SubjectPart:
    return SubjectPart(EfficientNetLite0Grid())


@functools.cache
def _recognisers() -> tuple[Recogniser, Backgrounds]:
    return Recogniser(), Backgrounds()
