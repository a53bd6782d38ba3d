"""Training a concept, DreamBooth's way (arXiv 2208.12242): a subject from a few photos.

Trained are the deltas of the attention projections and the trigger's embedding rows, with AdamW;
the base stays as it is. What is returned is what the file holds: the running average of what was
trained, rounded as the file is.

`Training.run` is the loop and `Training.train_step` one step of it; stopping.py says when it ends
early, resuming.py saves it and goes on.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from ..data import by_main, reseed
from ..settings import AUTO, TrainConfig
from .advice import advice, remarks
from .averaging import Average
from .backgrounds import OnPhoto, candidate_captions, name_backgrounds
from .checkpoints import Checkpoints, folder_lock
from .fixed_noise import each_photo
from .length import auto_length
from .objective import Denoiser, Objective
from .offloading import offload_blocks
from .preparing import prepare
from .previews import Previews
from .result import Trained, as_written, make_concept, rounded_parameters, upload, write_result
from .resuming import Identity, find_checkpoint, known_backgrounds, resume, save_checkpoint
from .runtime import (
    deterministic_attention,
    make_accelerator,
    make_optimizer,
    own_accelerate_state,
    own_random_numbers,
    restore,
)
from .stopping import FiniteGuard, interruptible, share_step
from .subject import encode_subject
from .summary import StepClock

log = logging.getLogger(__name__)
Report = Callable[["Training", float], None]
OnSummary = Callable[[Mapping[str, str]], None]


def train(
    config: TrainConfig,
    progress: bool = True,
    report: Report | None = None,
    on_summary: OnSummary | None = None,
    on_photo: OnPhoto | None = None,
) -> Trained:
    """Train a concept and write its file. Raises ValueError for settings that cannot be used.

    Ctrl-C or SIGTERM ends it after the step under way, with the concept written; so does `report`,
    called after each step with the training and the step's loss, by setting `stopped` (and
    `final_parameters`, by name, if others than the last are to be written). on_summary: called,
    once the base is loaded, with what will be done: a name and a sentence for each decision.
    on_photo: called before the base looks at each photo's background, with its number, from 1, and
    how many there are.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(own_accelerate_state())
        accelerator = make_accelerator(config)
        by_main(accelerator, lambda: held.enter_context(folder_lock(config.output_dir)))
        held.enter_context(own_random_numbers(accelerator.device))
        held.enter_context(deterministic_attention())
        training = Training(config, accelerator, progress, on_summary, on_photo)
        training.report = report
        trained = training.run()
    if config.push_to_hub and accelerator.is_main_process:
        if trained.stopped:
            log.warning("not uploaded, as it was stopped early; `svfit push` uploads it.")
        else:
            trained = replace(trained, address=upload(config, trained.path))
    return trained


class Training:
    """One training: what it is made of, its loop, and what it reports and saves on the way.

    step: how many are done. skipped: whether the last one was, since its gradients overflowed; it
    is made again, with the loss scaled by less. stopped: why it is to end early. final_parameters:
    written instead of the last ones, where they are set.
    """

    report: Report | None = None

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        progress: bool,
        on_summary: OnSummary | None = None,
        on_photo: OnPhoto | None = None,
    ) -> None:
        self.progress = progress and accelerator.is_main_process
        self.on_photo = on_photo if accelerator.is_main_process else None
        self.step, self.stopped, self.exit_status = 0, None, 0
        self.skipped, self.stops_together = False, False
        self.final_parameters: dict[str, Tensor] | None = None

        plan = prepare(config, accelerator)
        self.config, self.accelerator = plan.config, accelerator
        self.base, self.summary = plan.base, plan.summary
        if on_summary and accelerator.is_main_process:
            on_summary(self.summary)
        config = plan.config
        self.subject = encode_subject(config, accelerator, self.base, plan.source, progress)
        if config.gradient_checkpointing:
            self.base.enable_gradient_checkpointing()
        self.parameters = self.base.parameters()
        self.identity = Identity(config, accelerator, self.base, self.subject)
        self.checkpoints = Checkpoints(config.output_dir, config.checkpoints_total_limit)
        self.found = find_checkpoint(config.resume_from_checkpoint, self.checkpoints, self.identity)

        self.average = Average(self.parameters, config.ema_decay)
        denoiser = Denoiser(self.base, config.guidance_scale)
        self.prompts = denoiser.prompt_encoder
        if config.offload != "no":
            self._encode_all_prompts()
        groups, scales = self.base.parameter_groups(), self.base.scales()
        optimizer, self.schedule = make_optimizer(config, groups, scales)
        self.model, self.optimizer = accelerator.prepare(denoiser, optimizer)
        self.objective = Objective(config, accelerator, self.base, self.subject)
        self.guard = FiniteGuard(accelerator, self.parameters, config.max_grad_norm)
        resolution = self.subject.resolution
        self.previews = Previews(config, accelerator, self.base, resolution, self.average)

        self._complete_captions()
        automatic = config.max_train_steps == AUTO
        self.length = auto_length(self.objective, self.parameters) if automatic else None
        self.fixed_noise = each_photo(self.objective, self.subject.examples)
        self.remarks = remarks(config, self.base, self.subject)
        self._warn(self.remarks)

    def _complete_captions(self) -> None:
        """Append the recognised background to captions that the user did not write."""
        subject = self.subject
        if subject.unnamed:
            known = known_backgrounds(self.found, subject)
            name_backgrounds(self.objective, self.model, known, self.progress, self.on_photo)
            self.prompts.prune_cache(subject.captions())

    def _encode_all_prompts(self) -> None:
        """With `offload` all captions in question are encoded before the denoiser comes to the
        device, and text encoders that are not trained never come back to it while it is there.
        """
        self.prompts.fill_cache((*self.subject.captions(), *candidate_captions(self.subject)))
        if self.config.offload == "block":
            denoiser = getattr(self.base.pipe, self.base.family.denoiser)
            offload_blocks(denoiser, self.accelerator.device)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.most_steps or bool(self.length and self.length.settled)

    def run(self) -> Trained:
        """Train to the last step, or until stopped, and write the concept."""
        loss_before = self.fixed_noise.error(self.model)
        if self.found:
            resume(self, self.found)
        if self.length and not self.length.curve:
            self._measure_length()
        total = None if self.length else self.config.most_steps
        off, clock = not self.progress, StepClock()
        with (
            tqdm(total=total, initial=self.step, desc="training", disable=off) as bar,
            interruptible(self),
        ):
            while not self.finished and not self._asked_to_stop():
                loss = self.train_step()
                if not math.isfinite(loss):
                    self._give_up()
                    break
                if self.skipped:
                    continue
                self.step += 1
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}")
                self._say(clock.step(total and total - self.step))
                self._after_step(loss)
        if self._asked_to_stop() and self.exit_status != 1:  # after a NaN its state is no good
            save_checkpoint(self)
        return self._finish(loss_before)

    def train_step(self) -> float:
        """One optimizer step over all accumulated batches; returns its mean loss, NaN where the
        loss or its gradient is not finite and no step was made.
        """
        loss = self._backward()
        if math.isfinite(loss):
            self.guard.remember()
            self.average.remember()
            if not self.guard.clip_gradients():
                return math.nan
            self.optimizer.step()
            self.skipped = self.optimizer.step_was_skipped
            if not self.skipped:
                self.base.tie_deltas()
                self.average.step()
                self.schedule.step()
        self.optimizer.zero_grad()
        return loss

    def _backward(self) -> float:
        """The gradients of all accumulated batches; returns their mean loss over all processes."""
        accelerator, batches = self.accelerator, self.config.gradient_accumulation_steps
        total = torch.zeros((), device=accelerator.device)
        for i in range(batches):
            reseed(self.config.seed, "step", self.step, i, accelerator.process_index)
            last = i == batches - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                loss = self.objective.loss(self.model, self.step * batches + i) / batches
                accelerator.backward(loss)
            total += loss.detach()
        loss, stops = share_step(accelerator, total, bool(self.stopped))
        if stops and not self.stopped:
            self.stopped = "another process was interrupted"
        self.stops_together = stops
        return loss

    def _after_step(self, loss: float) -> None:
        """Log, measure, save and show, each when it is due."""
        config, step = self.config, self.step
        self.accelerator.log({"loss": loss, "lr": self.schedule.get_last_lr()[0]}, step=step)
        if self.length and self.length.due(step):
            self._measure_length()
        last = self.finished
        if step % config.checkpointing_steps == 0 or last:
            save_checkpoint(self)
        if config.validation_prompt and (step % config.validation_steps == 0 or last):
            self.previews.validate(step)
        if self.report:
            self.report(self, loss)

    def _measure_length(self) -> None:
        """Measure the loss that decides how long to train."""
        with self.as_written():
            loss = self.length.measure(self.model, self.step)
        self.accelerator.log({"validation_loss": loss}, step=self.step)

    def as_written(self) -> contextlib.AbstractContextManager[None]:
        """For a while, the parameters as the file will hold them."""
        return as_written(self.base, self.config.delta_bits, self.average)

    def _asked_to_stop(self) -> bool:
        """Whether this or another process is to stop; all of them stop together, after the same
        step, so that several of them may make one more.
        """
        alone = self.accelerator.num_processes == 1
        return self.stopped is not None if alone else self.stops_together

    def _give_up(self) -> None:
        """Go back to the last parameters that gave a finite loss."""
        self.guard.go_back()
        self.average.go_back()
        self.exit_status = 1
        self.stopped = (
            f"the loss of step {self.step + 1}, or its gradient, was not a finite number; what was "
            "learned before was kept. Try a lower learning rate, or --mixed_precision bf16 or no."
        )

    def _finish(self, loss_before: float) -> Trained:
        """Round what was learned as the file does, measure that, and write it."""
        config, accelerator, steps = self.config, self.accelerator, self.step
        if self.length:
            if self.length.curve[-1][0] < steps:
                self._measure_length()
            self.step = self.length.restore_best()
        else:
            restore(self.parameters, self.average.values())
        if self.final_parameters:
            restore(self.parameters, self.final_parameters)
        restore(self.parameters, rounded_parameters(self.base, config.delta_bits))
        loss_after = self.fixed_noise.error(self.model)
        processes = accelerator.num_processes
        concept = make_concept(config, self.base, self.subject, self.step, processes)
        by_main(accelerator, lambda: write_result(config, concept, self.stopped))
        self.model = accelerator.unwrap_model(self.model)
        accelerator.free_memory()  # Gloo may hang if what averages gradients outlives its group
        accelerator.end_training()
        hints = advice(config, concept.edit_values, self.step, loss_before, loss_after)
        self._warn(hints)
        return Trained(
            concept, config.concept_path, self.step, loss_before, loss_after, self.stopped,
            self.exit_status, tuple(hints), self.length.summary(steps) if self.length else "",
        )  # fmt: skip

    def _say(self, sentence: str) -> None:
        if sentence and self.accelerator.is_main_process:
            log.info("%s", sentence)

    def _warn(self, sentences: list[str]) -> None:
        for sentence in sentences if self.accelerator.is_main_process else ():
            log.warning("%s", sentence)
