"""Training a concept, DreamBooth's way (arXiv 2208.12242): a subject from a few photos.

Trained are the deltas of the attention projections and the trigger's embedding rows, with AdamW;
the base stays as it is. What is returned is what the file holds, rounded as the file is.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from . import resume, trigger
from .advice import advice, remarks
from .checkpoints import Checkpoints, alone
from .concept import Concept, write_concept
from .examples import reseed
from .families import base_name
from .matching import collect, seal
from .objective import Denoiser, Objective
from .packing import rounded
from .pictures import grid
from .runtime import (
    copied,
    interruptible,
    make_accelerator,
    make_optimizer,
    own_stream,
    restore,
)
from .settings import TrainConfig
from .subject import ADAPTER, prepare_subject
from .tuner import tie_deltas

log = logging.getLogger(__name__)
Report = Callable[["Training", float], None]


@dataclass(frozen=True)
class Trained:
    """A training's result: the concept, its file, and how the training went.

    loss_before, loss_after: of the photos on held-out noise, by the base and with the concept as
    written. stopped: why it ended early. exit_status: 130 after Ctrl-C, 1 after a NaN. advice: what
    to try, in sentences, where nothing was learned.
    """

    concept: Concept
    path: Path
    steps: int
    loss_before: float
    loss_after: float
    stopped: str | None
    exit_status: int = 0
    advice: tuple[str, ...] = ()


def train(config: TrainConfig, progress: bool = True, report: Report | None = None) -> Trained:
    """Train a concept and write its file. Raises ValueError for settings that cannot be used.

    Ctrl-C or SIGTERM ends it after the step under way, with the concept written; so does `report`,
    called after each step with the training and the step's loss, by setting `stopped`.
    """
    accelerator = make_accelerator(config)
    writes = alone(config.output_dir) if accelerator.is_main_process else contextlib.nullcontext()
    with writes, own_stream(accelerator.device):
        accelerator.wait_for_everyone()
        training = Training(config, accelerator, progress)
        training.report = report
        return training.run()


class Training:
    """One run: the loop, and what it reports and saves on the way."""

    report: Report | None = None

    def __init__(self, config: TrainConfig, accelerator: Accelerator, progress: bool) -> None:
        self.config, self.accelerator, self.progress = config, accelerator, progress
        self.folder = Path(config.output_dir)
        self.subject = prepare_subject(config, accelerator, progress)
        self._warn(remarks(config, self.subject))
        self.objective = Objective(config, accelerator, self.subject)
        groups = self.subject.parameters()
        self.named = {name: p for group in groups.values() for name, p in group.items()}
        optimizer, self.schedule = make_optimizer(config, groups)
        self.model, self.optimizer = accelerator.prepare(
            Denoiser(self.subject, config.guidance_scale), optimizer
        )
        self.step, self.stopped, self.exit_status = 0, None, 0
        self.good = copied(self.named)
        self.checkpoints = Checkpoints(self.folder, config.checkpoints_total_limit)
        self.shape = resume.Shape(self)

    def run(self) -> Trained:
        """Train to the last step, or until stopped, and write the concept."""
        before = self.objective.held_out_loss(self.model)
        resume.resume(self)
        bar = tqdm(
            total=self.config.max_train_steps,
            initial=self.step,
            desc="training",
            disable=not (self.progress and self.accelerator.is_main_process),
        )
        with bar, interruptible(self):
            while self.step < self.config.max_train_steps and not self._asked_to_stop():
                loss = self._optimize()
                if not math.isfinite(loss):
                    self._give_up()
                    break
                self.step += 1
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}")
                self._after_step(loss)
        if self.stopped and self.exit_status != 1:  # after a NaN the optimizer's state is no good
            resume.save(self)
        return self._finish(before)

    def _optimize(self) -> float:
        """One optimizer step over all accumulated batches; returns its mean loss."""
        batches, total = self.config.gradient_accumulation_steps, 0.0
        process = self.accelerator.process_index
        for i in range(batches):
            reseed(self.config.seed, "step", self.step, i, process)
            syncs = i == batches - 1
            with contextlib.nullcontext() if syncs else self.accelerator.no_sync(self.model):
                loss = self.objective.loss(self.model, self.step * batches + i) / batches
                self.accelerator.backward(loss)
            total += self.accelerator.reduce(loss.detach(), "mean").item()
        if math.isfinite(total):
            self.good = copied(self.named)
            self.accelerator.clip_grad_norm_(list(self.named.values()), self.config.max_grad_norm)
            self.optimizer.step()
            for part in self.subject.targets:
                tie_deltas(getattr(self.subject.pipe, part), ADAPTER)
            self.schedule.step()
        self.optimizer.zero_grad()
        return total

    def _give_up(self) -> None:
        """Go back to the last parameters that gave a finite loss."""
        restore(self.named, self.good)
        self.exit_status = 1
        self.stopped = (
            f"the loss of step {self.step + 1} was not a finite number; what was learned before "
            "was kept. Try a lower learning rate, or --mixed_precision bf16 or no."
        )

    def _asked_to_stop(self) -> bool:
        """Whether any process was told to stop; all of them learn it together."""
        flag = torch.tensor(float(self.stopped is not None), device=self.accelerator.device)
        if self.accelerator.reduce(flag, "sum").item() and not self.stopped:
            self.stopped = "another process was interrupted"
        return self.stopped is not None

    def _after_step(self, loss: float) -> None:
        config, rates = self.config, self.schedule.get_last_lr()
        self.accelerator.log({"loss": loss, "lr": rates[0]}, step=self.step)
        last = self.step == config.max_train_steps
        if self.step % config.checkpointing_steps == 0 or last:
            resume.save(self)
        if config.validation_prompt and (self.step % config.validation_steps == 0 or last):
            self._validate()
        if self.report:
            self.report(self, loss)

    def _validate(self) -> None:
        """Draw the validation prompt and keep a grid of it, by the main process."""
        if not self.accelerator.is_main_process:
            return
        config = self.config
        seeds = range(config.seed, config.seed + config.num_validation_images)
        with self.accelerator.autocast():
            images = self.subject.draw(config.validation_prompt, seeds)
        folder = self.folder / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        grid(images, captions=[f"seed {s}" for s in seeds]).save(folder / f"{self.step:06d}.png")
        for tracker in self.accelerator.trackers:
            stack = np.stack([np.asarray(image) for image in images])
            tracker.writer.add_images("validation", stack, self.step, dataformats="NHWC")

    def _finish(self, before: float) -> Trained:
        """Round what was learned as the file does, measure that, and write it."""
        restore(self.named, {name: self._rounded(name, p) for name, p in self.named.items()})
        after = self.objective.held_out_loss(self.model)
        concept = self._concept()
        if self.accelerator.is_main_process:
            write_concept(concept, self.config.concept_path)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        told = advice(self.config, concept.deltas, self.step, before, after)
        self._warn(told)
        result = concept, self.config.concept_path, self.step, before, after
        return Trained(*result, self.stopped, self.exit_status, tuple(told))

    def _rounded(self, name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
        """A parameter as the file holds it."""
        value = parameter.detach()
        if self.config.delta_bits == 16 or name in self.subject.parameters()["token"]:
            return value.half().float()
        return torch.from_numpy(rounded(value.cpu().numpy())).to(value)

    def _warn(self, sentences: list[str]) -> None:
        for text in sentences if self.accelerator.is_main_process else ():
            log.warning("%s", text)

    def _concept(self) -> Concept:
        """The concept as the models now hold it."""
        config, subject = self.config, self.subject
        models = {part: getattr(subject.pipe, part) for part in subject.targets}
        fields = collect(models, subject.targets, subject.family, ADAPTER)
        fields["packed"] = config.delta_bits == 4
        if not fields["packed"]:
            fields["deltas"] = fields["deltas"].astype(np.float16)
        if subject.ids:
            rows = {
                part: trigger.get_rows(getattr(subject.pipe, part), ids).half().numpy()
                for part, ids in sorted(subject.ids.items())
            }
            fields["trigger_rows"] = np.concatenate([r.ravel() for r in rows.values()])
            fields["trigger_shape"] = {part: r.shape for part, r in rows.items()}
        concept = Concept(
            rank=str(config.rank),
            base=base_name(config.pretrained_model_name_or_path),
            token=subject.token,
            class_word=subject.class_word,
            license=config.license,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            training={
                "steps": self.step,
                "batch": config.train_batch_size * self.accelerator.num_processes,
                "lr": config.learning_rate,
                "photos": len(subject.examples),
                "px": subject.resolution,
                "seed": config.seed,
            },
            **fields,
        )
        return seal(concept, models, subject.family)
