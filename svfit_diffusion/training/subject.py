"""The subject of a training: its words, and its photos as encoded examples."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from ..data import (
    Examples,
    Photo,
    Skipped,
    edge_colours,
    fill_class_images,
    photo_encoder,
    photos_digest,
    read_dataset,
    read_folder,
)
from ..settings import TrainConfig
from .adapted_base import AdaptedBase
from .offloading import at_work, one_at_a_time

log = logging.getLogger(__name__)
SAMPLE = "robot"


@dataclass(frozen=True)
class Source:
    """What the user gave: the words, and the photos that can be used."""

    token: str
    class_word: str
    prompt: str
    photos: list[Photo]
    skipped: list[Skipped]


@dataclass
class Subject:
    """A subject's words and its encoded photos.

    resolution: side of a square picture, in pixels. digest: hash of the photos and their captions;
    class_digest: of the class images.
    unnamed: the photos whose captions are to be completed by what is behind the subject, with their
    edges' colours; backgrounds: the phrases that did.
    """

    token: str
    class_word: str
    examples: Examples
    class_examples: Examples | None = None
    resolution: int = 0
    digest: str = ""
    class_digest: str = ""
    unnamed: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    backgrounds: tuple[str, ...] = ()

    def captions(self) -> tuple[str, ...]:
        """All captions that are trained on, those of the class images too."""
        held = filter(None, (self.examples, self.class_examples))
        return tuple(caption for examples in held for caption in examples.captions)


def read_source(config: TrainConfig, accelerator: Accelerator) -> Source:
    """Words and photos, read before any base is loaded; ValueError where they cannot be used."""
    words = _words(config)
    if config.dataset_name:
        photos, skipped = read_dataset(config)
    else:
        folder = config.instance_data_dir or sample_folder()
        photos, skipped = read_folder(folder, config.caption_column)
    for item in skipped if accelerator.is_main_process else ():
        log.warning("skipped: %s", item.reason)
    return Source(*words, photos, skipped)


def encode_subject(
    config: TrainConfig,
    accelerator: Accelerator,
    base: AdaptedBase,
    source: Source,
    progress: bool,
) -> Subject:
    """Encode the photos, and the class images, which the base generates where they are missing."""
    pipe, family, photos = base.pipe, base.family, source.photos
    size = config.resolution or family.size(pipe)
    encoded = photo_encoder(config, pipe, family, size)
    with at_work(base, ("vae",)):
        examples = encoded(photos, source.prompt, masked=True)
    subject = Subject(
        source.token,
        source.class_word,
        examples,
        resolution=size,
        digest=photos_digest(photos),
    )
    if config.with_prior_preservation:
        prompt = config.class_prompt or f"a photo of a {source.class_word}"
        with one_at_a_time(base, config.offload):
            fill_class_images(config, accelerator, pipe, prompt, size, progress)
        held, _ = read_folder(config.class_data_dir, most=config.num_class_images)
        subject.class_digest = photos_digest(held)
        with at_work(base, ("vae",)):
            subject.class_examples = encoded(held, prompt)
    if config.names_backgrounds and subject.examples.masks is None:  # a mask hides the background
        bare = {i: photo.image for i, photo in enumerate(photos) if photo.caption is None}
        subject.unnamed = {i: edge_colours(image) for i, image in bare.items()}
    return subject


def sample_folder(name: str = SAMPLE) -> Path:
    """The photos of a subject that comes with the package."""
    installed = Path(str(files("svfit_diffusion"))) / "samples"
    root = installed if installed.is_dir() else installed.parents[1] / "samples"
    return root / name / "photos"


def _words(config: TrainConfig) -> tuple[str, str, str]:
    """Trigger, class word and prompt; the sample's where no photos are given."""
    if config.instance_data_dir or config.dataset_name:
        return config.words()
    if config.instance_prompt or config.initializer_token:
        raise ValueError(
            "a prompt is given but no photos; pass --instance_data_dir, the folder they are in."
        )
    token = config.placeholder_token or "sks"
    return token, "toy", f"a photo of {token} toy"
