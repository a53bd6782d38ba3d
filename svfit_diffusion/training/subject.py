"""What a training starts from: the base, patched, the photos encoded, the trigger's token."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL.Image import Image
from torch import Tensor, nn

from ..adapter import (
    SVFitConfig,
    layers,
    parse_rank,
    patch_attention,
    rms_singular_value,
    values_and_outputs,
)
from ..concept import Trigger
from ..data import (
    Examples,
    edge_colours,
    fill_class_images,
    photo_encoder,
    photos_digest,
    read_folder,
)
from ..families import Family, load_base, recognise
from ..generation import generate
from ..pipeline import trigger
from ..settings import TrainConfig

log = logging.getLogger(__name__)
ADAPTER = "subject"
SAMPLE = "robot"
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Subject:
    """A patched base and a subject's encoded photos, on the accelerator's device.

    digest: hash of the photos and their captions. unnamed: the photos whose captions are to be
    completed by what is behind the subject, with their edges' colours; backgrounds: what did.
    """

    pipe: Any
    family: Family
    targets: dict[str, str]
    token: str
    class_word: str
    examples: Examples
    class_examples: Examples | None
    resolution: int
    digest: str = ""
    unnamed: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    backgrounds: tuple[str, ...] = ()
    tokens: list[str] = field(default_factory=list)
    ids: dict[str, list[int]] = field(default_factory=dict)
    cached: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def add_trigger(self, count: int = 1) -> None:
        """Give the trigger `count` trainable rows in each text encoder, which start at the class
        word's embedding; from here on the tokenizers read the word as them.
        """
        call = Trigger(self.token, self.class_word, {})
        for tokenizer, part in self.family.encoders:
            reader, encoder = getattr(self.pipe, tokenizer), getattr(self.pipe, part)
            start = trigger.start_row(reader, encoder, self.class_word)
            rows = start.repeat(count, 1)
            (word,) = trigger.teach(reader, encoder, ADAPTER, [call], [rows], train=True)
            self.ids[part], self.tokens = list(word.ids), list(word.names)

    def encode_prompts(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """Conditioning of the prompts; what no training changes of it is computed once each."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self.cached:
                self.cached[prompt] = self._fixed(prompt, device)
        found = [self.cached[prompt] for prompt in prompts]
        fixed = {key: torch.cat([text[key] for text in found]) for key in found[0]}
        return self._encode(prompts, fixed, device) if self.trains_text else fixed

    @torch.no_grad()
    def _fixed(self, prompt: str, device: torch.device) -> dict[str, Tensor]:
        """What stays of a prompt's conditioning: all of it, where no text encoder is trained."""
        here = next(iter(self.family.text_models(self.pipe).values())).device
        read = self.family.encode_frozen(self.pipe, [prompt], here)
        text = read if self.trains_text else self._encode([prompt], read, here)
        return {key: value.to(device) for key, value in text.items()}

    def forget(self, kept: Iterable[str]) -> None:
        """Give up what is known of prompts other than those kept and the class images'."""
        kept = {*kept, *(self.class_examples.captions if self.class_examples else ())}
        self.cached = {prompt: text for prompt, text in self.cached.items() if prompt in kept}

    def rest(self, device: torch.device, prompts: Iterable[str] = ()) -> None:
        """Let the VAE and the untrained text encoders wait in main memory, all prompts encoded.

        prompts: further ones than the captions.
        """
        held = filter(None, (self.examples, self.class_examples))
        found = (caption for examples in held for caption in examples.captions)
        with torch.no_grad():
            for prompt in dict.fromkeys((*found, *prompts)):
                self.encode_prompts([prompt], device)
        self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        trained = {*self.targets, *self.ids}
        models = self.family.text_models(self.pipe).items()
        for model in (self.pipe.vae, *(model for part, model in models if part not in trained)):
            model.to(device)

    @property
    def trains_text(self) -> bool:
        """Whether anything of the text encoders changes in training."""
        return bool(self.ids) or set(self.targets) != {self.family.denoiser}

    def _encode(self, prompts: list[str], read: dict, device: torch.device) -> dict[str, Tensor]:
        ids = self.family.tokenize(self.pipe, prompts)
        return self.family.encode_text(self.pipe, tuple(i.to(device) for i in ids), read)

    @torch.no_grad()
    def draw(self, prompt: str, seeds: Iterable[int], steps: int | None = None) -> list[Image]:
        """A picture of the prompt for each seed, as the models now are. steps: of denoising."""
        noise, size = self.pipe.scheduler, self.resolution
        self.pipe.scheduler = copy.deepcopy(noise)  # drawing sets its time steps
        given = {"steps": steps, "width": size, "height": size}
        idle = self.pipe.vae.device
        try:
            self._move(getattr(self.pipe, self.family.denoiser).device)
            return [next(generate(self.pipe, prompt, 1, seed, **given))[0] for seed in seeds]
        finally:
            self._move(idle)
            self.pipe.scheduler = noise

    def parameters(self) -> dict[str, dict[str, nn.Parameter]]:
        """What is trained: "denoiser", "text" and "token", name -> parameter."""
        deltas = {"denoiser": {}, "text": {}, "token": {}}
        for part in self.targets:
            group = deltas["denoiser" if part == self.family.denoiser else "text"]
            for name, layer in layers(getattr(self.pipe, part)).items():
                group[f"{part}.{name}"] = layer.svfit_delta[ADAPTER]
        for part in self.ids:
            rows = trigger.row_parameters(getattr(self.pipe, part), ADAPTER)
            deltas["token"] |= {f"{part}.token.{i}": row for i, row in enumerate(rows)}
        return deltas

    def scales(self) -> dict[str, float]:
        """Of the deltas of "denoiser" and "text": the size of the singular values they change."""
        text = (getattr(self.pipe, part) for part in self.targets if part != self.family.denoiser)
        denoiser = getattr(self.pipe, self.family.denoiser)
        return {"denoiser": rms_singular_value([denoiser]), "text": rms_singular_value(text)}


def prepare_subject(config: TrainConfig, accelerator: Accelerator, progress: bool) -> Subject:
    """Load, check and encode all that a training needs; ValueError before anything is trained."""
    for rank in (config.rank, config.text_rank):
        parse_rank(rank)
    folder, (token, noun, prompt) = _photos_folder(config)
    photos, skipped = read_folder(folder)
    for item in skipped if accelerator.is_main_process else ():
        log.warning("skipped: %s", item.reason)
    pipe, family = _load(config, accelerator.device)
    size = config.resolution or family.size(pipe)
    encoded = photo_encoder(config, pipe, family, size)
    examples, class_examples = encoded(photos, prompt, masked=True), None
    if config.with_prior_preservation:
        class_prompt = config.class_prompt or f"a photo of a {noun}"
        fill_class_images(config, accelerator, pipe, class_prompt, size, progress)
        class_photos, _ = read_folder(config.class_data_dir)
        class_examples = encoded(class_photos[: config.num_class_images], class_prompt)
    targets = {family.denoiser: config.attention}
    if config.train_text_encoder:
        targets |= {photo_encoder: "self" for _, photo_encoder in family.encoders}
    shown = {"resolution": size, "digest": photos_digest(photos)}
    if config.caption_backgrounds and examples.masks is None:  # a mask hides the background
        bare = {i: photo.image for i, photo in enumerate(photos) if photo.caption is None}
        shown["unnamed"] = {i: edge_colours(image) for i, image in bare.items()}
    subject = Subject(pipe, family, targets, token, noun, examples, class_examples, **shown)
    _patch(subject, config, accelerator.is_main_process)
    return subject


def _load(config: TrainConfig, device: torch.device) -> tuple[Any, Family]:
    """The frozen base on its device."""
    options = {"revision": config.revision, "variant": config.variant}
    options["quantize"] = config.quantize
    pipe = load_base(
        config.pretrained_model_name_or_path,
        DTYPES[config.mixed_precision],
        **{key: value for key, value in options.items() if value},
    )
    family = recognise(pipe)
    family.check(config)
    pipe.set_progress_bar_config(disable=True)
    if config.mixed_precision != "no":
        pipe.vae.to(torch.float32)  # its half precision overflows on some bases
    pipe.to(device)
    models = {**family.components(pipe), **family.text_models(pipe)}
    for model in (*models.values(), pipe.vae):
        model.requires_grad_(False)
    return pipe, family


def sample_folder(name: str = SAMPLE) -> Path:
    """The photos of a subject that comes with the package."""
    installed = Path(str(files("svfit_diffusion"))) / "samples"
    root = installed if installed.is_dir() else installed.parents[1] / "samples"
    return root / name / "photos"


def _photos_folder(config: TrainConfig) -> tuple[Path, tuple[str, str, str]]:
    if config.instance_data_dir:
        return Path(config.instance_data_dir), config.words()
    named = {k: getattr(config, k) for k in ("instance_prompt", "initializer_token")}
    if any(named.values()):
        raise ValueError(
            "a prompt is given but no photos; pass --instance_data_dir, the folder they are in."
        )
    token = config.placeholder_token or "sks"
    return sample_folder(), (token, "toy", f"a photo of {token} toy")


def _patch(subject: Subject, config: TrainConfig, announce: bool) -> None:
    """Put the adapters and the trigger's rows on the base."""
    pipe, family = subject.pipe, subject.family
    for part, attention in subject.targets.items():
        model, pattern = getattr(pipe, part), {}
        if part != family.denoiser:
            pattern = values_and_outputs(model, config.text_rank)
        settings = SVFitConfig(r=config.rank, rank_pattern=pattern, base_dtype=family.dtype)
        patched = patch_attention(model, settings, ADAPTER, attention)
        if announce:
            log.info("%s", patched)
    if config.train_token and family.encoders:
        subject.add_trigger(config.num_vectors)
    if announce and not family.encoders:
        log.info("the text encoder stays as it is, and reads the trigger as its words.")
    if config.gradient_checkpointing:
        for part, model in family.components(pipe).items():
            trained = part in subject.targets or part in subject.ids
            names = ("enable_gradient_checkpointing", "activation_checkpointing_enable")
            next(getattr(model, name) for name in names if hasattr(model, name))()
            model.train(trained)
