"""What a family is: everything in which model families differ, as one interface.

Every tensor keeps pictures or prompts as its first dimension. Time steps are whole numbers below
the scheduler's `num_train_timesteps`; `model_timesteps` says what the denoiser is told for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..settings import TrainConfig


class Family:
    """Interface of a family.

    name: as written into concept files. pipelines: the classes that bases are published as.
    models: the denoiser's classes, by which other pipelines are recognised; text_model: part of the
    name of its first text encoder's class. dtype: the precision its bases are published in.
    denoiser: the component that predicts. encoders: (tokenizer, text encoder) components that a
    concept may edit and teach a word; frozen_text_encoders: those that are only read, with the
    words as typed. original: diffusers' names for its kinds of single-file checkpoints.
    """

    name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    models: ClassVar[tuple[str, ...]]
    text_model: ClassVar[str] = "CLIPText"
    dtype: ClassVar[str]
    denoiser: ClassVar[str]
    encoders: ClassVar[tuple[tuple[str, str], ...]] = ()
    frozen_text_encoders: ClassVar[tuple[tuple[str, str], ...]] = ()
    original: ClassVar[tuple[str, ...]] = ()
    length: ClassVar[int] = 512  # tokens that the frozen encoders read, as the pipelines' default

    def recognises(self, pipe: Any) -> bool:
        """Whether a pipeline's models are this family's: its denoiser, and all that reads words.

        Image to image, inpainting, ControlNet, modular and people's own pipelines have the same.
        """
        parts = [part for _, part in (*self.encoders, *self.frozen_text_encoders)]
        every = [f"text_encoder{suffix}" for suffix in ("", "_2", "_3", "_4")]
        if any(hasattr(pipe, part) != (part in parts) for part in every):
            return False
        readers = [model for part in parts if (model := getattr(pipe, part, None)) is not None]
        known = not readers or any(self.text_model in name for name in _classes(readers[0]))
        return known and bool({*self.models} & {*_classes(getattr(pipe, self.denoiser, None))})

    def components(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> model, of those that a concept may edit."""
        return _present(pipe, (self.denoiser, *(encoder for _, encoder in self.encoders)))

    def text_models(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> model, of all that read prompts."""
        return _present(
            pipe, (encoder for _, encoder in (*self.encoders, *self.frozen_text_encoders))
        )

    def prompt_encoders(self, pipe: Any) -> list[tuple[str, int]]:
        """(tokenizer component, tokens it takes) of each model that conveys a prompt to the
        denoiser: the frozen ones where there are some, else the encoders.
        """
        names = [name for name, _ in self.frozen_text_encoders if getattr(pipe, name, None)]
        if names:
            return [(name, self.length) for name in names]
        there = (name for name, _ in self.encoders if getattr(pipe, name, None))
        return [(name, getattr(pipe, name).model_max_length) for name in there]

    def check(self, config: TrainConfig) -> None:
        """Refuse settings of a training that mean nothing for this family."""
        raise NotImplementedError

    def size(self, pipe: Any) -> int:
        """Side of the base's own pictures, in pixels."""
        return getattr(pipe, self.denoiser).config.sample_size * pipe.vae_scale_factor

    def size_multiple(self, pipe: Any) -> int:
        """What widths and heights must be a multiple of, in pixels."""
        return pipe.vae_scale_factor

    def tokenize(self, pipe: Any, prompts: list[str]) -> tuple[Tensor, ...]:
        """Prompts -> ids [prompts, length] of each encoder, with learned words as their rows."""
        return tuple(clip_ids(getattr(pipe, name), prompts) for name, _ in self.encoders)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """What the frozen text encoders give for the prompts as typed; no training changes it."""
        return {}

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Token ids of the encoders, and what the frozen ones gave -> conditioning."""
        raise NotImplementedError

    def encode_images(self, vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, H, W] in -1..1 -> mean and deviation [n, c, h, w] of the scaled latents."""
        spread, scale = vae.encode(pixels).latent_dist, vae.config.scaling_factor
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return (spread.mean - shift) * scale, spread.std * scale

    def unscale_latents(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """The pipeline's own latents of a picture of that many pixels -> what the VAE decodes."""
        shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
        return latents / pipe.vae.config.scaling_factor + shift

    def training_scheduler(self, scheduler: Any) -> Any:
        """The scheduler of training: another than the pipeline draws with, of its configuration."""
        raise NotImplementedError

    def sample_timestep(self, random: torch.Generator, count: int, config: TrainConfig) -> Tensor:
        """The time step of one picture [], below `count`, as the base was trained."""
        return torch.randint(count, (), generator=random)

    def add_noise(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Latents and noise [n, c, h, w], steps [n] -> noisy latents, in the latents' shape."""
        raise NotImplementedError

    def target(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What `predict` should have given, in the latents' shape."""
        raise NotImplementedError

    def model_timesteps(self, scheduler: Any, steps: Tensor) -> Tensor:
        """What the denoiser is told for the time steps [n]."""
        return steps

    def weights(self, scheduler: Any, steps: Tensor, config: TrainConfig) -> Tensor:
        """The loss's weight [n] at each time step."""
        raise NotImplementedError

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The denoiser's output for noisy latents, in their shape.

        guidance: what a guidance-distilled denoiser is told, where there is one.
        """
        raise NotImplementedError

    def sampling(self, pipe: Any) -> tuple[int, float]:
        """(denoising steps, guidance) that the base is drawn with, unless told otherwise."""
        raise NotImplementedError

    def guidance_kwargs(self, guidance: float, negative_prompt: str) -> dict[str, Any]:
        """Arguments of the pipeline's call for guidance; ValueError for what it cannot do."""
        return {"guidance_scale": guidance, "negative_prompt": negative_prompt or None}


def clip_ids(tokenizer: Any, prompts: list[str], length: int | None = None) -> Tensor:
    """Ids [prompts, length], padded and cut to the tokenizer's length or the given one."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=length or tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def no_negative(family: str, negative_prompt: str) -> None:
    """Refuse a negative prompt where the pipeline would ignore it."""
    if negative_prompt:
        raise ValueError(f"{family} takes no negative prompt; leave it empty.")


def _classes(model: Any) -> list[str]:
    """The names of a model's class and all that it is derived from; of a compiled one, inside."""
    return (
        [kind.__name__ for kind in type(unwrap_module(model)).__mro__] if model is not None else []
    )


def _present(pipe: Any, names: Iterable[str]) -> dict[str, nn.Module]:
    """Name -> model of the components that there are; of a `torch.compile`d one, what it wraps."""
    found = {name: getattr(pipe, name, None) for name in names}
    return {name: unwrap_module(model) for name, model in found.items() if model is not None}
