"""The settings of a training, in the groups that `svfit train --help` shows.

Flags carry the names of diffusers' train_dreambooth_lora.py where they mean the same. A group is a
frozen dataclass, so that a function may ask for the settings it needs alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any, ClassVar

ATTENTION = ("both", "self", "cross")
SCHEMES = ("none", "logit_normal", "mode", "cosmap", "sigma_sqrt")
RANK, TEXT_RANK = "16", "320"
AUTO, MOST_AUTO_STEPS = "auto", 2_000
SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial"),
    *("constant", "constant_with_warmup"),
)


def option(default: Any, help: str, **more: Any) -> Any:
    """A setting: its default, the help text of its flag, and what its values must be.

    more: choices; above, a number that values must exceed; least, the smallest value; parse, what
    makes a value of a flag's text where the type alone does not say it.
    """
    return field(default=default, metadata={"help": help, **more})


def number_of_steps(text: str) -> int | str:
    """The value of a flag max_train_steps: a number, or AUTO."""
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {AUTO!r}") from None


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """Which base is trained on."""

    title: ClassVar[str] = "the base"

    pretrained_model_name_or_path: str = option(
        "toybox", "'toybox', a Hub id, a diffusers folder or a .safetensors checkpoint"
    )
    revision: str | None = option(None, "revision of the base on the Hub")
    variant: str | None = option(None, "variant of the base's files, such as fp16")


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """The photos, how they are cut, and the class images."""

    title: ClassVar[str] = "photos"

    instance_data_dir: str | None = option(None, "folder of photos; default: the sample subject")
    resolution: int | None = option(
        None, "pixels, squared or of a bucket; default: the base's", above=0
    )
    center_crop: bool = option(False, "crop only the middle, not three places, of long photos")
    random_flip: bool = option(False, "mirror half of the pictures")
    use_aspect_ratio_buckets: bool = option(False, "keep the shape of photos that are not square")
    aspect_ratio_buckets: str | None = option(
        None, "sizes of the buckets, 'height,width;...'; default: near resolution^2 pixels"
    )
    mask_data_dir: str | None = option(None, "folder of masks named like the photos, white counts")
    alpha_mask: bool = option(False, "photos count only where they are not transparent")
    with_prior_preservation: bool = option(False, "train on class images too")
    prior_loss_weight: float = option(1.0, "weight of the class images' loss", least=0)
    class_data_dir: str | None = option(None, "folder of class images, filled up by the base")
    num_class_images: int = option(100, "class images to have in class_data_dir", above=0)
    sample_batch_size: int = option(4, "class images generated at a time", above=0)


@dataclass(frozen=True, kw_only=True)
class WordSettings:
    """What the subject is called, and the captions."""

    title: ClassVar[str] = "words"

    instance_prompt: str | None = option(None, "default: 'a photo of {token} {class word}'")
    placeholder_token: str | None = option(None, "the rare word that calls the subject: sks")
    initializer_token: str | None = option(None, "the class word, such as dog")
    class_prompt: str | None = option(None, "default: 'a photo of a {class word}'")
    caption_backgrounds: bool = option(
        True, "photos without a caption: the base says what is behind the subject"
    )


@dataclass(frozen=True, kw_only=True)
class LearnedSettings:
    """What is trained, and how it is stored."""

    title: ClassVar[str] = "what is trained"

    rank: str = option(RANK, "singular values trained: a number, full or energy=0.99")
    text_encoder_rank: str | None = option(
        None,
        "of the text encoder's value and output projections; default: "
        f"{TEXT_RANK} beside rank {RANK}, else as the rank",
    )
    attention: str = option("both", "UNet attention to adapt", choices=ATTENTION)
    train_text_encoder: bool = option(True, "adapt the text encoder as well as the UNet")
    train_token: bool = option(True, "learn an embedding for the placeholder token")
    num_vectors: int = option(1, "embedding rows of the placeholder token", above=0)
    delta_bits: int = option(4, "bits of a trained singular value in the file", choices=(4, 16))

    @property
    def text_rank(self) -> str:
        """The rank of the text encoder's value and output projections."""
        return self.text_encoder_rank or (TEXT_RANK if self.rank == RANK else self.rank)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long, and how fast."""

    title: ClassVar[str] = "how long and how fast"

    max_train_steps: int | str = option(
        200,
        "optimizer steps, or 'auto': until the loss of a held-out photo has settled",
        parse=number_of_steps,
    )
    train_batch_size: int = option(4, "pictures a step and process", above=0)
    gradient_accumulation_steps: int = option(1, "batches added up for one optimizer step", above=0)
    seed: int = option(0, "decides noise, order and generated pictures", least=0)
    learning_rate: float = option(
        6e-3, "of the UNet's deltas, times the root mean square of its singular values", above=0
    )
    text_encoder_lr: float | None = option(
        None, "of the text encoder's deltas; default: the same", above=0
    )
    token_lr: float = option(1e-2, "of the placeholder token's embedding", above=0)
    lr_scheduler: str = option("constant", "how rates change", choices=SCHEDULERS)
    lr_warmup_steps: int = option(0, "steps of rising rates", least=0)
    lr_num_cycles: int = option(1, "restarts of cosine_with_restarts")
    lr_power: float = option(1.0, "power of polynomial")
    adam_beta1: float = option(0.9, "of AdamW")
    adam_beta2: float = option(0.999, "of AdamW")
    adam_weight_decay: float = option(0.0, "of AdamW")
    adam_epsilon: float = option(1e-8, "of AdamW")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", above=0)

    @property
    def most_steps(self) -> int:
        """The number of the last step, at the latest."""
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

    mixed_precision: str = option("no", "of the frozen base", choices=("no", "fp16", "bf16"))
    gradient_checkpointing: bool = option(False, "less memory for slower steps")
    quantize: str | None = option(
        None,
        "load the denoiser and the large text encoders in fewer bits",
        choices=("4bit", "int8"),
    )
    offload: bool = option(False, "VAE and untrained text encoders wait in main memory when idle")
    allow_tf32: bool = option(False, "faster float32 products on NVIDIA cards")


@dataclass(frozen=True, kw_only=True)
class PreviewSettings:
    """What can be watched during a training."""

    title: ClassVar[str] = "previews and logs"

    validation_prompt: str | None = option(
        None, "generated during training, with the trigger in it"
    )
    num_validation_images: int = option(4, "pictures per validation", above=0)
    validation_steps: int = option(100, "steps between validations", above=0)
    report_to: str | None = option(None, "where to log", choices=("tensorboard",))
    logging_dir: str = option("logs", "folder of the log, below output_dir")


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """What is written, and where."""

    title: ClassVar[str] = "files"

    output_dir: str = option("svfit-model", "where the concept is written, named like the folder")
    checkpointing_steps: int = option(100, "steps between checkpoints", above=0)
    checkpoints_total_limit: int | None = option(2, "checkpoints kept", above=0)
    resume_from_checkpoint: str | None = option(None, "a checkpoint's folder, or 'latest'")
    license: str = option("", "licence of the concept file, such as CC-BY-4.0")


GROUPS = (
    *(PhotoSettings, WordSettings, BaseSettings, LearnedSettings, ScheduleSettings),
    *(LossSettings, MemorySettings, PreviewSettings, FileSettings),
)
