"""One run of the likeness comparison: train a method on a subject with Toybox, and measure it."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from objects import ToyObject, with_article
from PIL import Image

from benchmarks.likeness.methods import BY_NAME, NAME, Method, attach, round_values, tensor_bytes
from benchmarks.likeness.subjects import (
    OTHERS,
    PROMPTS,
    Judge,
    compositions,
    decoded_pictures,
    photos,
    truths,
)
from svfit_diffusion.adapter.tuner import tie_deltas
from svfit_diffusion.concept import Concept, write_concept
from svfit_diffusion.data.encoding import photo_encoder
from svfit_diffusion.data.reading import edge_colours, read_folder
from svfit_diffusion.evaluation.measures import denoising_loss, diversity, drift
from svfit_diffusion.families import TOYBOX, Family, load_base, recognise
from svfit_diffusion.generation.pictures import save_png
from svfit_diffusion.pipeline import load_concept
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training import train
from svfit_diffusion.training.adapted_base import AdaptedBase
from svfit_diffusion.training.backgrounds import complete_captions, recognise_backgrounds
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.objective import Denoiser, Objective
from svfit_diffusion.training.result import make_concept
from svfit_diffusion.training.runtime import make_accelerator
from svfit_diffusion.training.subject import Subject

SEEDS, BATCH, TOKEN_RATE, DRAWN_AT_ONCE = 4, 4, 1e-2, 8
SWEEP_SEEDS = 2
TOKEN = "sks"
WORDS = [prompt.words for prompt in PROMPTS]


class Drawer:
    """A subject on a base that can or will generate it: the prompts, their pictures, the loss."""

    def __init__(self, method: Method, item: ToyObject, seed: int, rate: float, work: Path) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.method, self.item, self.seed, self.rate, self.work = method, item, seed, rate, work
        self.pipe: StableDiffusionPipeline = load_base(TOYBOX)
        self.pipe.set_progress_bar_config(disable=True)
        self.noise = self.pipe.scheduler

    def photos(self) -> Path:
        """The folder of the subject's training pictures."""
        folder = self.work / "photos" / self.item.slug
        for index, picture in enumerate(photos(self.item)):
            if not (path := folder / f"{index}.png").is_file():
                folder.mkdir(parents=True, exist_ok=True)
                save_png(picture, path)
        return folder

    def prompt(self, words: str) -> str:
        """A prompt with the subject's words; of the base, with its class word only."""
        known = self.method.name != "base"
        return words.format(f"{TOKEN} {self.item.kind}" if known else with_article(self.item.kind))

    def loss(self) -> float:
        """Error on unseen compositions, with fixed noise and timesteps."""
        pictures, words = compositions(self.item)
        self.pipe.scheduler = self.noise
        return denoising_loss(self.pipe, pictures, [self.prompt(text) for text in words])

    def generate(self, words: list[str], seeds: int) -> list[Image.Image]:
        """Pictures of each prompt, consecutive for all seeds."""
        jobs = [(self.prompt(text), seed) for text in words for seed in range(seeds)]
        pictures = []
        self.pipe.scheduler = type(self.noise).from_config(self.noise.config)
        for start in range(0, len(jobs), DRAWN_AT_ONCE):
            part = jobs[start : start + DRAWN_AT_ONCE]
            generators = [torch.Generator().manual_seed(seed) for _, seed in part]
            with torch.inference_mode():
                pictures += self.pipe(
                    [text for text, _ in part],
                    num_inference_steps=25,
                    guidance_scale=3.0,
                    generator=generators,
                ).images
        self.pipe.scheduler = self.noise
        return pictures


class Shipped(Drawer):
    """What a person gets: the product's own training, and the file that it wrote."""

    values = bytes = steps = 0

    def trained(self, *looks: int | str) -> Iterator[int | str]:
        """Train to the last of these steps, or "auto"; yields each of them, with the concept file
        that it left loaded.
        """
        folder = self.work / "concepts" / f"{self.method.name}-{self.item.slug}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        files = {}

        def keep(training: Training, loss: float) -> None:
            if training.step in looks[:-1]:
                files[training.step] = folder / f"{training.step}.safetensors"
                with training.as_written():
                    write_concept(_concept_now(training), files[training.step])

        trained = train(
            TrainConfig(
                **self.method.settings,
                instance_data_dir=str(self.photos()),
                instance_prompt=f"a photo of {TOKEN} {self.item.kind}",
                learning_rate=self.rate,
                max_train_steps=looks[-1],
                seed=self.seed,
                output_dir=str(folder),
            ),
            progress=False,
            report=keep,
        )
        files[looks[-1]] = trained.path
        for look, path in files.items():
            self.steps = trained.steps if look == looks[-1] else look
            self.values, self.bytes = trained.concept.values, path.stat().st_size
            self.pipe = load_base(TOYBOX)
            self.pipe.set_progress_bar_config(disable=True)
            load_concept(self.pipe, path)
            yield look
        shutil.rmtree(folder)

    def round_values(self) -> None:
        """The file's are rounded."""


def _concept_now(training: Training) -> Concept:
    """The concept of a training under way, whose parameters are as written."""
    return make_concept(training.config, training.base, training.subject, training.step, 1)


class Run(Drawer):
    """A base with a method applied to it by peft, and a subject to learn."""

    def __init__(
        self,
        method: Method,
        item: ToyObject,
        seed: int,
        rate: float,
        work: Path,
        family: Family | None = None,
    ) -> None:
        super().__init__(method, item, seed, rate, work)
        self.family = family or recognise(self.pipe)
        self.models = self.family.components(self.pipe)
        for model in (*self.models.values(), self.pipe.vae):
            model.requires_grad_(False)
        self.config = TrainConfig(
            instance_prompt=f"a photo of {TOKEN} {item.kind}",
            seed=seed,
            train_batch_size=BATCH,
            output_dir=str(work / "out"),
        )
        self.accelerator = make_accelerator(self.config)
        groups = attach(method, self.models, self.family.denoiser)
        text = {"text_encoder": "self"} if groups["text"] else {}
        self.adapted = AdaptedBase(self.pipe, self.family, {self.family.denoiser: "both"} | text)
        self.subject = self._subject()
        if method.captions:
            self.subject.examples = replace(self.subject.examples, captions=captions(item, work))
        rows = [row for part in self.adapted.learners for row in self.adapted.learned_rows(part)]
        adapter = [*groups["denoiser"], *groups["text"]]
        self.parameters, self.adapter, self.rows = [*adapter, *rows], adapter, rows
        rates = ((adapter, rate), (rows, rate if not adapter else TOKEN_RATE))
        parts = [{"params": part, "lr": value} for part, value in rates if part]
        self.optimizer = torch.optim.AdamW(parts, weight_decay=0.0) if parts else None
        self.steps = 0

    def _subject(self) -> Subject:
        """The product's own Subject, on a base with the method's adapters."""
        taken, _ = read_folder(self.photos())
        token, noun, prompt = self.config.words()
        size = self.family.size(self.pipe)
        examples = photo_encoder(self.config, self.pipe, self.family, size)(taken, prompt)
        if self.method.word:
            self.adapted.add_trigger(token, noun)
        return Subject(token, noun, examples, resolution=size)

    @property
    def values(self) -> int:
        """The number of values that the method must store."""
        return sum(parameter.numel() for parameter in self.parameters)

    @property
    def bytes(self) -> int:
        """The bytes of these values, without a header."""
        sizes = [parameter.numel() for parameter in self.adapter]
        token = self.values - sum(sizes)
        return tensor_bytes(sizes, self.method.bits) + 2 * token

    def trained(self, *looks: int) -> Iterator[int]:
        """Train to each of these steps in turn, with the base's own loss; yields it."""
        objective = Objective(self.config, self.accelerator, self.adapted, self.subject)
        model = Denoiser(self.adapted)
        for look in looks:
            while self.optimizer and self.steps < look:
                self._step(objective, model)
            yield look

    def _step(self, objective: Objective, model: Denoiser) -> None:
        tuner = self.models[self.family.denoiser].__dict__.get("peft_tuner")
        objective.loss(model, self.steps).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        if self.method.adapter == "svfit":
            for part in self.adapted.targets:
                tie_deltas(self.models[part], NAME)
        if hasattr(tuner, "update_and_allocate"):
            tuner.update_and_allocate(self.steps)
        self.optimizer.zero_grad()
        self.steps += 1

    def round_values(self) -> None:
        """Round the adapter to the bits of its file."""
        for parameter in self.adapter if self.method.bits == 4 else ():
            round_values(parameter)


def subject_run(method: Method, item: ToyObject, seed: int, rate: float, work: Path) -> Drawer:
    """A method and a subject, not trained yet."""
    kind = Drawer if method.name == "base" else Run if method.settings is None else Shipped
    return kind(method, item, seed, rate, work)


def sweep(method: Method, item: ToyObject, rate: float, looks: tuple[int, ...], work: Path) -> dict:
    """Measures after each number of steps, of a few pictures of each prompt."""
    run = subject_run(method, item, 0, rate, work)
    return {str(steps): glimpse(run) for steps in run.trained(*looks)}


def glimpse(run: Drawer) -> dict[str, float]:
    """The means of the measures over a few pictures of each prompt, rounded as in the file; a
    training can go on.
    """
    adapter = getattr(run, "adapter", ())
    kept = [parameter.detach().clone() for parameter in adapter]
    run.round_values()
    judge = judge_of(run.item, run.work, SWEEP_SEEDS)
    pictures = run.generate(WORDS, SWEEP_SEEDS)
    seen = {
        "fidelity": judge.fidelity(pictures),
        "copy": judge.copies(judge.features(pictures)),
        "aligned": judge.aligned(pictures),
        "loss": np.array(run.loss()),
    }
    with torch.no_grad():
        for parameter, value in zip(adapter, kept, strict=True):
            parameter.copy_(value)
    return {key: round(float(values.mean()), 4) for key, values in seen.items()}


def measure(
    method: Method, item: ToyObject, seed: int, rate: float, steps: int, work: Path
) -> dict[str, Any]:
    """Train, generate all prompts, and measure. The pictures are kept in the work folder.

    near: each picture's mean cosine with its prompt's true pictures, from which report.py makes
    fidelity, with the scale of `scale`.
    """
    base, run = base_pictures(item, work), subject_run(method, item, seed, rate, work)
    if method.name == "base":
        pictures = base
    else:
        for _ in run.trained(steps):
            run.round_values()
            pictures = run.generate([*WORDS, *OTHERS], SEEDS)
    _keep(work / method.name / f"{item.slug}-{seed}", pictures)
    judge, count = judge_of(item, work, SEEDS), len(WORDS) * SEEDS
    features = judge.features(pictures)
    seen = {
        "near": judge.near(pictures[:count]),
        "copy": judge.copies(features[:count]).reshape(-1, SEEDS),
        "aligned": judge.aligned(pictures[:count]),
    }
    return {
        "values": getattr(run, "values", 0),
        "bytes": getattr(run, "bytes", 0),
        "loss": round(run.loss(), 6),
        **{key: np.round(values, 4).tolist() for key, values in seen.items()},
        "drift": round(drift(features[count:], judge.features(base[count:])), 5),
        "diversity": round(diversity(features[:count], SEEDS), 5),
    }


def scale(item: ToyObject, work: Path) -> dict[str, Any]:
    """What 0 and 1 are for a subject, and what the VAE alone leaves of true pictures.

    base: [prompts, seeds]; real, decoded: of each true picture, and of it sent through the VAE, the
    mean cosine with the others [prompts, views]. real_copy: true pictures' copy score.
    """
    judge = judge_of(item, work, SEEDS)
    vae = load_base(TOYBOX).vae
    real, decoded = [], []
    for prompt, references in zip(PROMPTS, judge.references, strict=True):
        seen = judge.part.features(decoded_pictures(vae, truths(item, prompt)), prompt)
        for found, pictures in ((real, references), (decoded, seen)):
            near = pictures @ references.T
            near.fill_diagonal_(0)
            found.append((near.sum(1) / (len(near) - 1)).tolist())
    return {
        "base": np.round(judge.base, 4).tolist(),
        "real": np.round(real, 4).tolist(),
        "decoded": np.round(decoded, 4).tolist(),
        "real_copy": round(judge.real_copy, 4),
    }


def captions(item: ToyObject, work: Path) -> tuple[str, ...]:
    """The photos' captions as the product completes them; computed once and kept."""
    path = work / "captions" / f"{item.slug}.json"
    if not path.is_file():
        run = Run(Method("", "", word=True), item, 0, 0.0, work)
        run.subject.unnamed = {i: edge_colours(photo) for i, photo in enumerate(photos(item))}
        objective = Objective(run.config, run.accelerator, run.adapted, run.subject)
        phrases = recognise_backgrounds(objective, Denoiser(run.adapted), progress=False)
        complete_captions(run.subject, phrases)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run.subject.examples.captions))
    return tuple(json.loads(path.read_text()))


@functools.cache
def judge_of(item: ToyObject, work: Path, seeds: int) -> Judge:
    """A judge for this number of seeds per prompt."""
    base = base_pictures(item, work)
    taken = [base[prompt * SEEDS + seed] for prompt in range(len(WORDS)) for seed in range(seeds)]
    return Judge(item, taken, seeds)


def base_pictures(item: ToyObject, work: Path) -> list[Image.Image]:
    """The base's pictures of the class word, for all prompts; generated once and kept."""
    folder, words = work / "base" / item.slug, [*WORDS, *OTHERS]
    if (pictures := _stored(folder, words)) is None:
        pictures = Drawer(BY_NAME["base"], item, 0, 0.0, work).generate(words, SEEDS)
        _keep(folder, pictures)
    return pictures


def _keep(folder: Path, pictures: list[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        save_png(picture, folder / f"{index:03d}.png")


def _stored(folder: Path, words: list[str]) -> list[Image.Image] | None:
    """The pictures of a folder, if it is complete."""
    paths = [folder / f"{index:03d}.png" for index in range(len(words) * SEEDS)]
    if not all(path.is_file() for path in paths):
        return None
    return [Image.open(path).convert("RGB") for path in paths]
