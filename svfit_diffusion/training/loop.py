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
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..adapter import tie_deltas
from ..concept import Concept, write_concept
from ..data import reseed
from ..generation import grid
from ..settings import AUTO, TrainConfig
from . import resuming as resume
from .advice import advice, remarks
from .backgrounds import name_backgrounds, tried
from .checkpoints import Checkpoints, folder_lock
from .length import Length
from .objective import Denoiser, Objective
from .result import make_concept, rounded_parameters
from .runtime import (
    deterministic_attention,
    interruptible,
    make_accelerator,
    make_optimizer,
    own_stream,
    restore,
    snapshot,
)
from .subject import ADAPTER, prepare_subject

log = logging.getLogger(__name__)
Report = Callable[["Training", float], None]
MOST_OVERFLOWS = 20  # in a row; by then 2^16, with which fp16 starts, has been halved away


@dataclass(frozen=True)
class Trained:
    """A training's result: the concept, its file, and how the training went.

    steps: those that the concept holds. loss_before, loss_after: of the photos on held-out noise,
    by the base and with the concept as written. stopped: why it ended early. exit_status: 130 after
    Ctrl-C, 1 after a NaN. advice: what to try, in sentences, where nothing was learned. length: how
    its length was found, where that was automatic.
    """

    concept: Concept
    path: Path
    steps: int
    loss_before: float
    loss_after: float
    stopped: str | None
    exit_status: int = 0
    advice: tuple[str, ...] = ()
    length: str = ""


def train(config: TrainConfig, progress: bool = True, report: Report | None = None) -> Trained:
    """Train a concept and write its file. Raises ValueError for settings that cannot be used.

    Ctrl-C or SIGTERM ends it after the step under way, with the concept written; so does `report`,
    called after each step with the training and the step's loss, by setting `stopped`
    (and `chosen`, parameters by name, if others than the last are to be written).
    """
    accelerator = make_accelerator(config)
    writes = (
        folder_lock(config.output_dir) if accelerator.is_main_process else contextlib.nullcontext()
    )
    with writes, own_stream(accelerator.device), deterministic_attention():
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
        self.checkpoints = Checkpoints(self.folder, config.checkpoints_total_limit)
        self.subject = prepare_subject(config, accelerator, progress)
        if config.offload:
            self.subject.rest(accelerator.device, tried(self.subject))
        self.objective = Objective(config, accelerator, self.subject)
        groups = self.subject.parameters()
        self.named = {name: p for group in groups.values() for name, p in group.items()}
        optimizer, self.schedule = make_optimizer(config, groups, self.subject.scales())
        self.model, self.optimizer = accelerator.prepare(
            Denoiser(self.subject, config.guidance_scale), optimizer
        )
        self.shape = resume.Shape(self)
        self.found = resume.find(self)
        if self.subject.unnamed and not resume.recall(self):
            name_backgrounds(self.objective, self.model, progress)
        self.remarks = remarks(config, self.subject)
        self._warn(self.remarks)
        self.step, self.stopped, self.exit_status = 0, None, 0
        self.good, self.chosen, self.overflows = snapshot(self.named), None, 0
        automatic = config.max_train_steps == AUTO
        self.length = Length(self.objective, self.named) if automatic else None

    def run(self) -> Trained:
        """Train to the last step, or until stopped, and write the concept."""
        before = self.objective.held_out_loss(self.model)
        resume.resume(self)
        if self.length and not self.length.curve:
            self._look()
        bar = tqdm(
            total=None if self.length else self.config.most_steps,
            initial=self.step,
            desc="training",
            disable=not (self.progress and self.accelerator.is_main_process),
        )
        with bar, interruptible(self):
            while not self.ended and not self._asked_to_stop():
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

    @property
    def ended(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.most_steps or bool(self.length and self.length.ended)

    def _look(self) -> None:
        """Measure the loss that decides how long to train."""
        loss = self.length.look(self.model, self.step)
        self.accelerator.log({"validation_loss": loss}, step=self.step)

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
            self.good = snapshot(self.named)
            if not self._clip():
                return math.nan
            self.optimizer.step()
            for part in self.subject.targets:
                tie_deltas(getattr(self.subject.pipe, part), ADAPTER)
            self.schedule.step()
        self.optimizer.zero_grad()
        return total

    def _clip(self) -> bool:
        """Clip the gradients. False where they are no numbers, which no step may be made with.

        In fp16 they overflow now and then: such steps are skipped and the loss is scaled by less.
        """
        accelerator, parameters = self.accelerator, list(self.named.values())
        finite = bool(accelerator.clip_grad_norm_(parameters, self.config.max_grad_norm).isfinite())
        self.overflows = 0 if finite else self.overflows + 1
        return finite or (accelerator.scaler is not None and self.overflows <= MOST_OVERFLOWS)

    def _give_up(self) -> None:
        """Go back to the last parameters that gave a finite loss."""
        restore(self.named, self.good)
        self.exit_status = 1
        self.stopped = (
            f"the loss of step {self.step + 1}, or its gradient, was not a finite number; what was "
            "learned before was kept. Try a lower learning rate, or --mixed_precision bf16 or no."
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
        if self.length and self.length.due(self.step):
            self._look()
        last = self.ended
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
        steps = self.step
        if self.length:
            if self.length.curve[-1][0] < steps:
                self._look()
            self.step = self.length.take_best()
        if self.chosen:
            restore(self.named, self.chosen)
        restore(self.named, rounded_parameters(self))
        after = self.objective.held_out_loss(self.model)
        concept = make_concept(self)
        if self.accelerator.is_main_process:
            write_concept(concept, self.config.concept_path)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        told = advice(self.config, concept.deltas, self.step, before, after)
        self._warn(told)
        result = concept, self.config.concept_path, self.step, before, after
        said = self.length.said(steps) if self.length else ""
        return Trained(*result, self.stopped, self.exit_status, tuple(told), said)

    def _warn(self, sentences: list[str]) -> None:
        for text in sentences if self.accelerator.is_main_process else ():
            log.warning("%s", text)
