"""What differs between model families: components, text encoding, prediction target.

A family is one small class; it is recognised from the pipeline, never asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import toybox

TOYBOX = "toybox"


class Family:
    """Interface of a family.

    name: as written into concept files. dtype: the precision its bases are published in.
    denoiser: the component that predicts. encoders: (tokenizer, text encoder) components.
    """

    name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    dtype: ClassVar[str]
    denoiser: ClassVar[str]
    encoders: ClassVar[tuple[tuple[str, str], ...]]

    def components(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> model, of those that a concept may edit."""
        names = (self.denoiser, *(encoder for _, encoder in self.encoders))
        return {name: getattr(pipe, name) for name in names if getattr(pipe, name, None)}

    def tokenize(self, pipe: Any, prompts: list[str]) -> tuple[Tensor, ...]:
        """Prompts (with any trigger already in its token form) -> ids [prompts, length] each."""
        tokenizers = (getattr(pipe, tokenizer) for tokenizer, _ in self.encoders)
        return tuple(
            tokenizer(
                prompts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for tokenizer in tokenizers
        )

    def encode_text(self, pipe: Any, ids: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Token ids -> conditioning, each tensor with the prompts as its first dimension."""
        raise NotImplementedError

    def encode_images(self, vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, H, W] in -1..1 -> mean and deviation of the scaled latents."""
        raise NotImplementedError

    def predict(self, denoiser: nn.Module, noisy: Tensor, steps: Tensor, text: dict) -> Tensor:
        """The denoiser's output for noisy latents at integer time steps."""
        raise NotImplementedError

    def target(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What `predict` should have given."""
        raise NotImplementedError


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x, and Toybox: one CLIP encoder, a UNet, epsilon or v."""

    name = "sd"
    pipelines = ("StableDiffusionPipeline",)
    dtype = "float16"
    denoiser = "unet"
    encoders = (("tokenizer", "text_encoder"),)

    def encode_text(self, pipe: Any, ids: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Token ids [n, length] -> hidden states [n, length, width]."""
        return {"encoder_hidden_states": pipe.text_encoder(ids[0]).last_hidden_state}

    def encode_images(self, vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, H, W] in -1..1 -> mean and deviation of the scaled latents."""
        spread = vae.encode(pixels).latent_dist
        return spread.mean * vae.config.scaling_factor, spread.std * vae.config.scaling_factor

    def predict(self, denoiser: nn.Module, noisy: Tensor, steps: Tensor, text: dict) -> Tensor:
        """The UNet's output [n, channels, h, w]."""
        return denoiser(noisy, steps, **text).sample

    def target(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Noise or velocity, as the scheduler's configuration states."""
        kind = scheduler.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            return scheduler.get_velocity(latents, noise, steps)
        raise ValueError(
            f"the base predicts {kind!r}, but epsilon or v_prediction was expected; its "
            "scheduler_config.json may be wrong."
        )


class StableDiffusionXL(StableDiffusion):
    """SDXL: two CLIP encoders side by side, a pooled text vector, and the picture's size as ids."""

    name = "sdxl"
    pipelines = ("StableDiffusionXLPipeline",)
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))

    def encode_text(self, pipe: Any, ids: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Two times ids [n, length] -> hidden states [n, length, widths], pooled [n, width]."""
        models = (getattr(pipe, encoder) for _, encoder in self.encoders)
        outputs = [
            model(i, output_hidden_states=True) for model, i in zip(models, ids, strict=True)
        ]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return {"encoder_hidden_states": hidden, "text_embeds": outputs[-1].text_embeds}

    def predict(self, denoiser: nn.Module, noisy: Tensor, steps: Tensor, text: dict) -> Tensor:
        """The UNet's output [n, channels, h, w]; the picture is as large as its latents, uncut."""
        height, width = (8 * size for size in noisy.shape[-2:])
        sizes = noisy.new_tensor([height, width, 0, 0, height, width])
        added = {
            "text_embeds": text["text_embeds"],
            "time_ids": sizes.repeat(len(noisy), 1),
        }
        hidden = text["encoder_hidden_states"]
        return denoiser(noisy, steps, hidden, added_cond_kwargs=added).sample


FAMILIES: tuple[Family, ...] = (StableDiffusion(), StableDiffusionXL())


def recognise(pipe: Any) -> Family:
    """The family of a diffusers pipeline; ValueError when it is none that is supported."""
    kind = type(pipe).__name__
    for family in FAMILIES:
        if kind in family.pipelines:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise ValueError(f"{kind} is not supported; load the base as one of: {known}.")


def load_base(
    base: str, dtype: torch.dtype = torch.float32, checked: bool = False, **options: Any
) -> Any:
    """The pipeline of a base: "toybox", a diffusers folder, a .safetensors file, or a Hub id.

    checked: keep the safety checker of its pictures, where the base has one. options go to
    diffusers (variant, revision, cache_dir ...). Only safetensors files are read.
    Raises ValueError when the base cannot be had.
    """
    if base == TOYBOX:
        return toybox.load(dtype)
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    quiet = {"safety_checker": None, "requires_safety_checker": False}
    try:
        if Path(base).is_file():
            return StableDiffusionPipeline.from_single_file(base, dtype=dtype, **quiet, **options)
        return DiffusionPipeline.from_pretrained(
            base, dtype=dtype, use_safetensors=True, **({} if checked else quiet), **options
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"the base {base!r} could not be loaded ({reason}); pass 'toybox', a diffusers folder, "
            "a .safetensors checkpoint, or a Hub id that this machine can download."
        ) from error


def base_folder(base: str, parts: tuple[str, ...]) -> Path:
    """The diffusers folder of a base; of a Hub id, the named components are downloaded."""
    if base == TOYBOX:
        return toybox.path()
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(base, allow_patterns=[f"{p}/*.safetensors" for p in parts]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ValueError(
            f"the base {base!r} is no diffusers folder and could not be downloaded from the Hub; "
            "pass the base that the concept was trained on."
        ) from error


def base_name(base: str) -> str:
    """What a concept file calls a base: a Hub id as it is, else the name of its folder or file.

    A path on somebody's machine is nobody else's business.
    """
    path = Path(base)
    if not base or not path.exists():
        return base or "unnamed"
    return TOYBOX if path.resolve() == toybox.path().resolve() else path.resolve().stem
