"""How a training goes: its length, loss, precision, previews and files.

Flags carry the names of diffusers' train_dreambooth_lora.py where they mean the same. A group is a
frozen dataclass, so that a function may ask for the settings it needs alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .options import (
    AUTO,
    MOST_AUTO_STEPS,
    OFFLOAD,
    OPTIMIZERS,
    PRECISIONS,
    QUANTIZE,
    SCHEDULERS,
    SCHEMES,
    TOYBOX_RATES,
    TRACKERS,
    USUAL_RATES,
    number_of_steps,
    optimizer_name,
    option,
    yes_or_no,
)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long, and how fast."""

    title: ClassVar[str] = "how long and how fast"

    max_train_steps: int | str = option(
        200,
        "optimizer steps, or 'auto': until the loss at fixed noise has settled",
        parse=number_of_steps,
    )
    num_train_epochs: int | None = option(
        None, "passes over the photos, instead of a number of steps", above=0
    )
    train_batch_size: int = option(4, "pictures a step and process", above=0)
    gradient_accumulation_steps: int | None = option(
        None, "batches added up for one optimizer step; default: the launcher's, or 1", above=0
    )
    seed: int = option(0, "decides noise, order and generated pictures", least=0)
    learning_rate: float | None = option(
        None,
        "of the UNet's deltas and common vector, times the root mean square of its singular "
        f"values; default: {TOYBOX_RATES[0]:g} on Toybox, where it was measured, and "
        f"{USUAL_RATES[0]:g} on other bases, as singular values are trained there",
        above=0,
    )
    text_encoder_lr: float | None = option(
        None, "of the text encoder's deltas; default: the same", above=0
    )
    scale_lr: bool = option(False, "learning_rate times batch, accumulation and processes")
    token_lr: float | None = option(
        None,
        "of the placeholder token's embedding, times the root mean square of the encoder's table; "
        "of its vector in an output, times the size of the states there; default: "
        f"{TOYBOX_RATES[1]:g} on Toybox, {USUAL_RATES[1]:g} on other bases",
        above=0,
    )
    lr_scheduler: str = option("constant", "how rates change", choices=SCHEDULERS)
    lr_warmup_steps: int = option(0, "steps of rising rates", least=0)
    lr_num_cycles: int = option(1, "restarts of cosine_with_restarts")
    lr_power: float = option(1.0, "power of polynomial")
    optimizer: str = option(
        "AdamW",
        "prodigy finds the rates itself; learning_rate then multiplies them (default: 1)",
        choices=OPTIMIZERS,
        parse=optimizer_name,
    )
    adam_beta1: float = option(0.9, "of the optimizer")
    adam_beta2: float = option(0.999, "of the optimizer")
    adam_weight_decay: float = option(
        0.2,
        "of deltas and common vector, not of a learned word: each step takes back its rate times "
        "this of them",
        least=0,
    )
    adam_weight_decay_text_encoder: float | None = option(
        None, "for the text encoder; default: the same", least=0
    )
    adam_epsilon: float = option(1e-8, "of the optimizer")
    prodigy_beta3: float | None = option(None, "of prodigy; default: the square root of beta2")
    prodigy_decouple: bool = option(
        True, "of prodigy: weight decay as AdamW's", parse=yes_or_no, switch=True
    )
    prodigy_use_bias_correction: bool = option(
        True, "of prodigy: Adam's bias correction", parse=yes_or_no, switch=True
    )
    prodigy_safeguard_warmup: bool = option(
        True, "of prodigy: warm-up does not count in its rate", parse=yes_or_no, switch=True
    )
    ema_decay: float = option(
        0.99,
        "the file holds the running average of what was trained, over about 1 / (1 - decay) steps; "
        "0: the last step",
        least=0,
        below=1,
    )
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", above=0)

    @property
    def most_steps(self) -> int:
        """The largest number of steps."""
        return MOST_AUTO_STEPS if self.max_train_steps == AUTO else self.max_train_steps


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What the loss weighs."""

    title: ClassVar[str] = "loss"

    snr_gamma: float | None = option(
        None, "min-SNR weighting (5.0 is usual); default: none", above=0
    )
    noise_offset: float = option(0.0, "scale of a constant added to each channel's noise", least=0)
    weighting_scheme: str | None = option(
        None, "timesteps of SD3 and FLUX; default: as their scripts", choices=SCHEMES
    )
    logit_mean: float = option(0.0, "of the logit_normal scheme")
    logit_std: float = option(1.0, "of the logit_normal scheme", above=0)
    mode_scale: float = option(1.29, "of the mode scheme")
    guidance_scale: float = option(
        1.0, "given to a guidance-distilled base (FLUX dev) in training", least=0
    )


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Precision and memory."""

    title: ClassVar[str] = "precision and memory"

    mixed_precision: str | None = option(
        None,
        "of the frozen base; default: the launcher's, or bf16 for quantised weights and, on a "
        "GPU, for bases that were published in it, or no",
        choices=PRECISIONS,
    )
    gradient_checkpointing: bool = option(False, "less memory for slower steps")
    quantize: str | None = option(
        None,
        "load the denoiser and the large text encoders in fewer bits",
        choices=QUANTIZE,
    )
    offload: str | bool = option(
        "no",
        "what waits in main memory while it is idle; model: the VAE and untrained text encoders; "
        "block: those, and the denoiser's frozen blocks, which is slow; without a value: model",
        choices=OFFLOAD,
        switch=True,
    )
    allow_tf32: bool = option(False, "faster float32 products on NVIDIA cards")


@dataclass(frozen=True, kw_only=True)
class PreviewSettings:
    """What can be watched during a training."""

    title: ClassVar[str] = "previews and logs"

    validation_prompt: str | None = option(
        None, "generated during training, with the trigger in it"
    )
    validation_base: str | None = option(
        None,
        "generate them with another form of the base, such as its distilled one; a diffusers "
        "folder or a Hub id",
        path=True,
    )
    num_validation_images: int = option(4, "pictures per validation", above=0)
    validation_steps: int = option(100, "steps between validations", above=0)
    validation_epochs: int | None = option(
        None, "passes over the photos between validations, instead of validation_steps", above=0
    )
    report_to: str | None = option(
        None, "where to log; wandb and comet_ml are to be installed", choices=TRACKERS
    )
    logging_dir: str = option("logs", "folder of the log, below output_dir")


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """What is written, and where."""

    title: ClassVar[str] = "files"

    output_dir: str = option(
        "svfit-model", "where the concept is written, named like the folder", path=True
    )
    checkpointing_steps: int = option(100, "steps between checkpoints", above=0)
    checkpoints_total_limit: int | None = option(2, "checkpoints kept", above=0)
    resume_from_checkpoint: str | None = option(None, "a checkpoint's folder, or 'latest'")
    push_to_hub: bool = option(False, "upload the concept when it is trained")
    hub_model_id: str | None = option(None, "where to: user/name; default: the concept's name")
    hub_token: str | None = option(None, "for the upload; default: your login's", hidden=True)
    license: str = option("", "licence of the concept file, such as CC-BY-4.0")
    created: str | None = option(
        None, "date and time that the concept file states, 2026-01-31T12:00:00Z; default: now"
    )
