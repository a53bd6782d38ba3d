"""What a method of the likeness comparison learns of a subject, on Toybox, and draws then.

`Shipped` is the product's own training, `Run` a base with an adapter of forms.py or adapters.py.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from objects import ToyObject, with_article
from PIL import Image
from torch import Tensor

from benchmarks.likeness.adapters import Adapter, Loss
from benchmarks.likeness.forms import attach
from benchmarks.likeness.methods import BLOCK, Method, round_values, tensor_bytes, word_bytes
from benchmarks.likeness.subjects import compositions, photos
from svfit_diffusion.concept import write_concept
from svfit_diffusion.concept.packing import BLOCK as WORD_BLOCK
from svfit_diffusion.data.encoding import photo_encoder
from svfit_diffusion.data.reading import edge_colours, read_folder
from svfit_diffusion.evaluation.measures import denoising_loss
from svfit_diffusion.families import TOYBOX, Family, load_base, recognise
from svfit_diffusion.generation.pictures import save_png
from svfit_diffusion.pipeline import load_concept
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training import train
from svfit_diffusion.training.adapted_base import AdaptedBase
from svfit_diffusion.training.averaging import Average
from svfit_diffusion.training.backgrounds import complete_captions, recognise_backgrounds
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.objective import Denoiser, Objective
from svfit_diffusion.training.result import make_concept
from svfit_diffusion.training.runtime import make_accelerator, restore, snapshot
from svfit_diffusion.training.subject import Subject

BATCH, TOKEN_RATE, DRAWN_AT_ONCE = 4, 1e-2, 8
TOKEN = "sks"
SAMPLED = {"num_inference_steps": 25, "guidance_scale": 3.0}


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

    @contextlib.contextmanager
    def as_written(self) -> Iterator[None]:
        """For a while, the values as the method's file holds them, which those of a file are."""
        yield

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
                pictures += self.draw([text for text, _ in part], generators)
        self.pipe.scheduler = self.noise
        return pictures

    def draw(self, prompts: list[str], generators: list[torch.Generator]) -> list[Image.Image]:
        """A batch of pictures; prompts: as the text encoder reads them."""
        return self.pipe(prompts, generator=generators, **SAMPLED).images


class Shipped(Drawer):
    """What a person gets: the product's own training, and the file that it wrote."""

    values = bytes = steps = 0
    path = Path()  # of the file that is loaded

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
                    concept = make_concept(
                        training.config, training.base, training.subject, training.step, 1
                    )
                write_concept(concept, files[training.step])

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
            self.path, self.steps = path, trained.steps if look == looks[-1] else look
            self.values, self.bytes = trained.concept.values, path.stat().st_size
            self.pipe = load_base(TOYBOX)
            self.pipe.set_progress_bar_config(disable=True)
            load_concept(self.pipe, path)
            yield look
        shutil.rmtree(folder)


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
        self.edit = self._edit()
        text = {"text_encoder": "self"} if self.edit and self.edit.text else {}
        self.adapted = AdaptedBase(self.pipe, self.family, {self.family.denoiser: "both"} | text)
        self.subject = self._subject()
        if method.captions:
            self.subject.examples = replace(self.subject.examples, captions=captions(item, work))
        rows = [row for part in self.adapted.learners for row in self.adapted.learned_rows(part)]
        adapter = self.edit.parameters if self.edit else []
        self.parameters, self.adapter, self.rows = [*adapter, *rows], adapter, rows
        self.word = [*rows]  # without what ways.py adds to the rows
        rates = ((adapter, rate), (rows, rate if not adapter else TOKEN_RATE))
        parts = [{"params": part, "lr": value} for part, value in rates if part]
        self.optimizer = torch.optim.AdamW(parts, weight_decay=0.0) if parts else None
        self.steps = 0
        held = {str(number): value for number, value in enumerate(self.parameters)}
        self.average = Average(held, TrainConfig.ema_decay if method.averaged else 0.0)
        self.start()

    def start(self) -> None:
        """Before the training, for what ways.py does otherwise."""

    def batch_loss(self, objective: Objective, model: Denoiser, number: int) -> Tensor:
        """The loss of a batch."""
        return objective.loss(model, number)

    def after_step(self) -> None:
        """After the optimizer and the adapter."""

    def _edit(self) -> Adapter | None:
        """The method's adapter, applied."""
        method, denoiser = self.method, self.family.denoiser
        if not method.adapter:
            return None
        wanted = {p: model for p, model in self.models.items() if p == denoiser or method.text}
        return attach(method.adapter, method.options, wanted, denoiser)

    def _subject(self) -> Subject:
        """The product's own Subject, on a base with the method's adapters."""
        taken, _ = read_folder(self.photos())
        token, noun, prompt = self.config.words()
        size = self.family.size(self.pipe)
        examples = photo_encoder(self.config, self.pipe, self.family, size)(taken, prompt)
        if self.method.word:
            self.adapted.add_trigger(token, noun, self.method.vectors)
        return Subject(token, noun, examples, resolution=size)

    @property
    def values(self) -> int:
        """The number of values that the method must store."""
        return sum(self._sizes()) + sum(row.numel() for row in self.rows)

    def _sizes(self) -> list[int]:
        return self.edit.sizes if self.edit else []

    @property
    def bytes(self) -> int:
        """The bytes of these values, without a header."""
        mask = self.edit.mask_bytes if self.edit else 0
        word = word_bytes(self.method, len(self.word[0])) if self.word else 0
        more = 2 * sum(row.numel() for row in self.rows[len(self.word) :])
        return tensor_bytes(self._sizes(), self.method.bits) + word + more + mask

    def trained(self, *looks: int) -> Iterator[int]:
        """Train to each of these steps in turn, with the base's own loss; yields it."""
        objective = Objective(self.config, self.accelerator, self.adapted, self.subject)
        loss = functools.partial(self.batch_loss, objective, Denoiser(self.adapted))
        if self.edit:
            self.edit.begin(loss)
        for look in looks:
            while self.optimizer and self.steps < look:
                self._step(loss)
            yield look

    def _step(self, loss: Loss) -> None:
        self.optimizer.zero_grad()
        loss(self.steps).backward()
        if self.edit:
            self.edit.before_step(self.steps)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        if self.edit:
            self.edit.after_step(self.steps)
        self.after_step()
        self.average.step()
        self.steps += 1

    @property
    def rounded(self) -> list[tuple[torch.nn.Parameter, int]]:
        """What is in four bits in its file, and how many numbers of it share a scale."""
        adapter = self.adapter if self.method.bits == 4 else []
        word = self.word if self.method.word_bits == 4 else []
        return [*((part, BLOCK) for part in adapter), *((row, WORD_BLOCK) for row in word)]

    @contextlib.contextmanager
    @torch.no_grad()
    def as_written(self) -> Iterator[None]:
        """The average, if that is what its file holds, rounded to its bits."""
        kept = snapshot(self.average.parameters)
        restore(self.average.parameters, self.average.values())
        for parameter, block in self.rounded:
            round_values(parameter, block)
        try:
            yield
        finally:
            restore(self.average.parameters, kept)


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
