"""TrainConfig: what a training is told, and the command line made from it.

Flags carry the names of diffusers' train_dreambooth_lora.py where they mean the same. This module
imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PRESETS = {
    "tiny": {},
    "paper": {
        "rank": "energy=0.99", "train_token": False, "delta_bits": 16,
        "caption_backgrounds": False, "learning_rate": 2e-2,
    },
}  # fmt: skip
ATTENTION = ("both", "self", "cross")
RARE_WORDS = ("sks", "zwx", "ohwx", "TOK")
SCHEMES = ("none", "logit_normal", "mode", "cosmap", "sigma_sqrt")
RANK, TEXT_RANK = "16", "320"
AUTO, MOST_AUTO_STEPS = "auto", 2_000
SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial"),
    *("constant", "constant_with_warmup"),
)


def option(default: Any, help: str, **more: Any) -> Any:
    """A field of TrainConfig with the help text (and choices) of its flag."""
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training. ValueError names the setting that cannot be."""

    pretrained_model_name_or_path: str = option(
        "toybox", "the base: 'toybox', a Hub id, a diffusers folder or a .safetensors checkpoint"
    )
    revision: str | None = option(None, "revision of the base on the Hub")
    variant: str | None = option(None, "variant of the base's files, such as fp16")
    instance_data_dir: str | None = option(None, "folder of photos; default: the sample subject")
    instance_prompt: str | None = option(None, "default: 'a photo of {token} {class word}'")
    class_data_dir: str | None = option(None, "folder of class images, filled up by the base")
    class_prompt: str | None = option(None, "default: 'a photo of a {class word}'")
    placeholder_token: str | None = option(None, "the rare word that calls the subject: sks")
    initializer_token: str | None = option(None, "the class word, such as dog")
    caption_backgrounds: bool = option(
        True, "photos without a caption: the base says what is behind the subject"
    )
    train_token: bool = option(True, "learn an embedding for the placeholder token")
    num_vectors: int = option(1, "embedding rows of the placeholder token")
    train_text_encoder: bool = option(True, "adapt the text encoder as well as the UNet")
    attention: str = option("both", "UNet attention to adapt", choices=ATTENTION)
    rank: str = option(RANK, "singular values trained: a number, full or energy=0.99")
    text_encoder_rank: str | None = option(
        None,
        "of the text encoder's value and output projections; default: "
        f"{TEXT_RANK} beside rank {RANK}, else as the rank",
    )
    delta_bits: int = option(4, "bits of a trained singular value in the file", choices=(4, 16))
    with_prior_preservation: bool = option(False, "train on class images too")
    prior_loss_weight: float = option(1.0, "weight of the class images' loss")
    num_class_images: int = option(100, "class images to have in class_data_dir")
    output_dir: str = option("svfit-model", "where the concept is written, named like the folder")
    seed: int = option(0, "decides noise, order and generated pictures")
    resolution: int | None = option(None, "pixels, squared or of a bucket; default: the base's")
    center_crop: bool = option(False, "crop only the middle, not three places, of long photos")
    use_aspect_ratio_buckets: bool = option(False, "keep the shape of photos that are not square")
    aspect_ratio_buckets: str | None = option(
        None, "sizes of the buckets, 'height,width;...'; default: near resolution^2 pixels"
    )
    mask_data_dir: str | None = option(None, "folder of masks named like the photos, white counts")
    alpha_mask: bool = option(False, "photos count only where they are not transparent")
    random_flip: bool = option(False, "mirror half of the pictures")
    train_batch_size: int = option(4, "pictures a step and process")
    sample_batch_size: int = option(4, "class images generated at a time")
    max_train_steps: int | str = option(
        200, "optimizer steps, or 'auto': until the loss of a photo that is held out has settled"
    )
    gradient_accumulation_steps: int = option(1, "batches added up for one optimizer step")
    gradient_checkpointing: bool = option(False, "less memory for slower steps")
    learning_rate: float = option(
        6e-3, "of the UNet's deltas, times the root mean square of its singular values"
    )
    text_encoder_lr: float | None = option(None, "of the text encoder's deltas; default: the same")
    token_lr: float = option(1e-2, "of the placeholder token's embedding")
    lr_scheduler: str = option("constant", "how rates change", choices=SCHEDULERS)
    lr_warmup_steps: int = option(0, "steps of rising rates")
    lr_num_cycles: int = option(1, "restarts of cosine_with_restarts")
    lr_power: float = option(1.0, "power of polynomial")
    snr_gamma: float | None = option(None, "min-SNR weighting (5.0 is usual); default: none")
    weighting_scheme: str | None = option(
        None, "time steps of SD3 and FLUX; default: as their scripts", choices=SCHEMES
    )
    logit_mean: float = option(0.0, "of the logit_normal scheme")
    logit_std: float = option(1.0, "of the logit_normal scheme")
    mode_scale: float = option(1.29, "of the mode scheme")
    guidance_scale: float = option(1.0, "told to a guidance-distilled base (FLUX dev) in training")
    noise_offset: float = option(0.0, "scale of a constant added to each channel's noise")
    adam_beta1: float = option(0.9, "of AdamW")
    adam_beta2: float = option(0.999, "of AdamW")
    adam_weight_decay: float = option(0.0, "of AdamW")
    adam_epsilon: float = option(1e-8, "of AdamW")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm")
    mixed_precision: str = option("no", "of the frozen base", choices=("no", "fp16", "bf16"))
    quantize: str | None = option(
        None,
        "load the denoiser and the large text encoders in fewer bits",
        choices=("4bit", "int8"),
    )
    offload: bool = option(False, "VAE and untrained text encoders wait in main memory when idle")
    allow_tf32: bool = option(False, "faster float32 products on NVIDIA cards")
    validation_prompt: str | None = option(None, "drawn during training, with the trigger in it")
    num_validation_images: int = option(4, "pictures per validation")
    validation_steps: int = option(100, "steps between validations")
    checkpointing_steps: int = option(100, "steps between checkpoints")
    checkpoints_total_limit: int | None = option(2, "checkpoints kept")
    resume_from_checkpoint: str | None = option(None, "a checkpoint's folder, or 'latest'")
    report_to: str | None = option(None, "where to log", choices=("tensorboard",))
    logging_dir: str = option("logs", "folder of the log, below output_dir")
    license: str = option("", "licence of the concept file, such as CC-BY-4.0")

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, but must be above 0.")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must not be below 0.")
        self._check_length()
        for item in fields(self):
            choices, value = item.metadata.get("choices"), getattr(self, item.name)
            if choices and value not in (*choices, item.default):
                raise ValueError(f"{item.name} is {value!r}, but must be one of {choices}.")
        if self.resolution and self.resolution % 8:
            raise ValueError(f"resolution is {self.resolution}, but must be a multiple of 8.")
        if self.aspect_ratio_buckets and not self.use_aspect_ratio_buckets:
            raise ValueError("aspect_ratio_buckets is used only with use_aspect_ratio_buckets.")
        if self.with_prior_preservation and not self.class_data_dir:
            raise ValueError("with_prior_preservation needs class_data_dir, a folder to fill.")

    def _check_length(self) -> None:
        steps = self.max_train_steps
        if steps != AUTO and not (isinstance(steps, int) and steps > 0):
            raise ValueError(
                f"max_train_steps is {steps!r}, but must be a number above 0, or {AUTO!r}."
            )
        if steps == AUTO and not self.lr_scheduler.startswith("constant"):
            raise ValueError(
                f"the rates of lr_scheduler {self.lr_scheduler!r} fall towards a last step, which "
                f"max_train_steps {AUTO!r} does not know; pass a number of steps, or the scheduler "
                "'constant' or 'constant_with_warmup'."
            )

    @property
    def text_rank(self) -> str:
        """The rank of the text encoder's value and output projections."""
        return self.text_encoder_rank or (TEXT_RANK if self.rank == RANK else self.rank)

    @property
    def most_steps(self) -> int:
        """The number of the last step, at the latest."""
        return MOST_AUTO_STEPS if self.max_train_steps == AUTO else self.max_train_steps

    @property
    def name(self) -> str:
        """The concept's name: its folder's."""
        return Path(self.output_dir).resolve().name

    @property
    def concept_path(self) -> Path:
        """Where the concept file is written."""
        return Path(self.output_dir) / f"{self.name}.safetensors"

    def words(self) -> tuple[str, str, str]:
        """(token, class word, instance prompt), completed from one another.

        "a photo of sks dog" alone gives the token sks and the class word dog.
        """
        token, noun, prompt = self.placeholder_token, self.initializer_token, self.instance_prompt
        if prompt and not token:
            token = next((w for w in RARE_WORDS if says(prompt, w)), None)
        if prompt and token and not noun:
            found = re.search(rf"\b{re.escape(token)}\s+(\w+)", prompt)
            noun = found and found[1]
        token = token or RARE_WORDS[0]
        if not noun:
            raise ValueError(
                "what the photos show is not said; pass --instance_prompt 'a photo of sks dog', or "
                "--initializer_token dog."
            )
        prompt = prompt or f"a photo of {token} {noun}"
        if not says(prompt, token):
            raise ValueError(
                f"the instance prompt {prompt!r} lacks the placeholder token {token!r}; write it "
                "where the subject is meant."
            )
        return token, noun, prompt


def says(prompt: str, word: str) -> bool:
    """Whether a prompt holds a word as a whole."""
    return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt))


_POSITIVE = (
    *("num_vectors", "num_class_images", "resolution", "train_batch_size", "sample_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "text_encoder_lr"),
    *("token_lr", "snr_gamma", "max_grad_norm", "num_validation_images", "validation_steps"),
    *("checkpointing_steps", "checkpoints_total_limit", "logit_std"),
)
_NOT_NEGATIVE = (
    *("seed", "prior_loss_weight", "lr_warmup_steps", "noise_offset", "guidance_scale"),
)


def steps(text: str) -> int | str:
    """The value of a flag max_train_steps: a number, or AUTO."""
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {AUTO!r}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of TrainConfig, and --preset."""
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="tiny",
        help=f"tiny: rank {RANK}, {TEXT_RANK} for the text encoder's values and outputs, and a "
        "learned token; paper: rank by 99 %% of the energy, no token, one caption for all, and a "
        f"learning rate of {PRESETS['paper']['learning_rate']}",
    )
    for item in fields(TrainConfig):
        kind = str(item.type).removesuffix(" | None")
        options = {"default": None, "help": item.metadata["help"].replace("%", "%%")}
        if item.default is not None and kind != "bool":
            options["help"] += f" (default: {item.default})"
        if kind == "bool":
            options["action"] = argparse.BooleanOptionalAction
            options["help"] += f" (default: {'yes' if item.default else 'no'})"
        else:
            options["type"] = {"int": int, "float": float, "str": str, "int | str": steps}[kind]
            options["choices"] = item.metadata.get("choices")
        parser.add_argument(f"--{item.name}", **options)


def from_arguments(arguments: argparse.Namespace) -> TrainConfig:
    """The TrainConfig of parsed arguments; flags that were given win over the preset."""
    names = {item.name for item in fields(TrainConfig)}
    given = {k: v for k, v in vars(arguments).items() if k in names and v is not None}
    return TrainConfig(**(PRESETS[arguments.preset] | given))
