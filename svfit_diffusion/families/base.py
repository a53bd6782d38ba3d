"""The interface of a model family: everything in which families differ.

Every tensor has pictures or prompts as its first dimension. Timesteps are integers below the
scheduler's `num_train_timesteps`; `model_timesteps` converts them to what the denoiser takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..settings import TrainConfig


class TextEncoder(NamedTuple):
    """A text encoder and its tokenizer, by the names of their components in the pipeline."""

    tokenizer: str
    model: str


# As pipelines number them.
FIRST, SECOND, THIRD, FOURTH = (
    TextEncoder(f"tokenizer{n}", f"text_encoder{n}") for n in ("", "_2", "_3", "_4")
)


class PromptTokenizer(NamedTuple):
    """What splits a prompt: tokenizer component, and the number of tokens that are read."""

    tokenizer: str
    length: int


class WordOutput(NamedTuple):
    """Where a learned word is added to what a frozen text encoder says, h' = h + strength v.

    encoder: the text encoder, whose `hidden_states` get v at the tokens of the word. states: the
    name of these states in what `encode_frozen` returns, [prompts, length, layers x width]. layers:
    which hidden states are side by side there, as transformers numbers them (-1: the last); none
    for the encoder's `last_hidden_state`. one_by_one: the pipeline does not call the encoder, but
    its layers one after the other, and keeps what comes out of them.
    """

    encoder: TextEncoder
    states: str
    layers: tuple[int, ...] = ()
    one_by_one: bool = False


class Sampling(NamedTuple):
    """The usual settings of generation: denoising steps and guidance scale."""

    steps: int
    guidance: float


class Family:
    """Interface of a family.

    For a learned word, a family whose text encoders are not trained through states `word_outputs`,
    and nothing else. Its `encode_frozen` must call the text encoder's module itself, on the token
    ids of the component's tokenizer (which must be a fast one), as the pipeline does; and what it
    returns under the name `states` must be the encoder's states as they are: selected, cut, padded
    or put side by side, but not computed with. (What is computed with them belongs into
    `encode_text` or `predict`.) tests/pipeline/word/test_outputs.py checks it for every family.

    name: as written into concept files; title: for people. bases: name -> Hub id of bases that
    people use. pipelines: the classes that bases are published as. editing: classes for editing
    pictures over the same models; a base published as one is loaded as pipelines[0]. models: the
    denoiser's classes; with the class of its text encoder (text_model) they identify the family of
    any other pipeline. dtype: the precision its bases are published in. denoiser: the component
    that predicts. encoders: text encoders that a concept may edit and teach a word.
    frozen_text_encoders: those that stay unchanged and read prompts as typed. word_outputs:
    those of them whose output gets the learned word, and where. elsewhere: components that bases'
    repositories lack -> their class in transformers and a Hub id. original: diffusers' names for
    its kinds of single-file checkpoints. negative: what its pipeline takes for no negative prompt.
    defaults: of generation.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    bases: ClassVar[dict[str, str]] = {}
    pipelines: ClassVar[tuple[str, ...]]
    editing: ClassVar[tuple[str, ...]] = ()
    models: ClassVar[tuple[str, ...]]
    text_model: ClassVar[str] = "CLIPText"
    dtype: ClassVar[str]
    denoiser: ClassVar[str]
    encoders: ClassVar[tuple[TextEncoder, ...]] = ()
    frozen_text_encoders: ClassVar[tuple[TextEncoder, ...]] = ()
    word_outputs: ClassVar[tuple[WordOutput, ...]] = ()
    elsewhere: ClassVar[dict[str, tuple[str, str]]] = {}
    original: ClassVar[tuple[str, ...]] = ()
    length: ClassVar[int] = 512  # tokens that frozen encoders read, as the pipelines' default
    side: ClassVar[int] = 0  # of its pictures, in pixels, where nothing but the pipeline says it
    negative: ClassVar[str | None] = None
    defaults: ClassVar[Sampling]

    def recognises(self, pipe: Any) -> bool:
        """Whether a pipeline's denoiser and text encoders are those of this family.

        They are in pipelines for image to image, inpainting, ControlNet, and in users' own.
        """
        parts = [encoder.model for encoder in (*self.encoders, *self.frozen_text_encoders)]
        every = [f"text_encoder{suffix}" for suffix in ("", "_2", "_3", "_4")]
        if any(hasattr(pipe, part) != (part in parts) for part in every):
            return False
        readers = [model for part in parts if (model := getattr(pipe, part, None)) is not None]
        known = not readers or any(self.text_model in name for name in _classes(readers[0]))
        return known and bool({*self.models} & {*_classes(getattr(pipe, self.denoiser, None))})

    def components(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> model, of the components that a concept may edit."""
        return _present(pipe, (self.denoiser, *(encoder.model for encoder in self.encoders)))

    def outputs(self, pipe: Any) -> dict[str, WordOutput]:
        """Text encoder -> where its output gets a learned word, of those that the pipeline has."""
        held = {output.encoder.model: output for output in self.word_outputs}
        return {part: held[part] for part in _present(pipe, held)}

    def holders(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> model, of all that may hold something of a concept: `components`, and
        the text encoders of `word_outputs`.
        """
        return self.components(pipe) | _present(pipe, self.outputs(pipe))

    @property
    def word_parts(self) -> tuple[str, ...]:
        """The text encoders that can be taught a word, by their names in the pipeline."""
        held = (*self.encoders, *(output.encoder for output in self.word_outputs))
        return tuple(encoder.model for encoder in held)

    def word_tokenizers(self, pipe: Any) -> dict[str, Any]:
        """Text encoder -> its tokenizer, of those that can be taught a word and that there are."""
        held = (*self.encoders, *(output.encoder for output in self.word_outputs))
        readers = {encoder.model: encoder.tokenizer for encoder in held}
        return {part: plain_tokenizer(pipe, readers[part]) for part in _present(pipe, readers)}

    def text_models(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> model, of all text encoders."""
        encoders = (*self.encoders, *self.frozen_text_encoders)
        return _present(pipe, (encoder.model for encoder in encoders))

    def prompt_tokenizers(self, pipe: Any) -> list[PromptTokenizer]:
        """Those of the encoders that describe a prompt to the denoiser word by word: of the frozen
        ones if there are any, otherwise of those that learn words.
        """
        names = [e.tokenizer for e in self.frozen_text_encoders if getattr(pipe, e.tokenizer, None)]
        if names:
            return [PromptTokenizer(name, self.length) for name in names]
        held = [e.tokenizer for e in self.encoders if getattr(pipe, e.tokenizer, None)]
        return [PromptTokenizer(name, getattr(pipe, name).model_max_length) for name in held]

    def check(self, config: TrainConfig) -> None:
        """Raise ValueError for training settings that this family has no use for."""
        raise NotImplementedError

    def size(self, pipe: Any) -> int:
        """Side of the pictures that the base was made for, in pixels."""
        if self.side:
            return self.side
        stated = getattr(pipe, "default_sample_size", None)  # in latents, as the other one
        return pipe.vae_scale_factor * (stated or getattr(pipe, self.denoiser).config.sample_size)

    def size_multiple(self, pipe: Any) -> int:
        """Widths and heights must be multiples of this number of pixels."""
        return pipe.vae_scale_factor

    def tokenize(self, pipe: Any, prompts: list[str]) -> tuple[Tensor, ...]:
        """Prompts -> ids [prompts, length] of each encoder, learned words included."""
        return tuple(clip_ids(getattr(pipe, e.tokenizer), prompts) for e in self.encoders)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """Outputs of the frozen text encoders for the prompts as typed; training keeps them.

        What is as long as the prompt is padded with zeros, and has a mask.
        """
        return {}

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Token ids of `encoders`, and the outputs of the frozen encoders -> conditioning.

        Without encoders to train, those outputs are the conditioning.
        """
        return dict(read or {})

    def frame_conditioning(self, frames: Tensor) -> dict[str, Tensor]:
        """What the denoiser is told of how pictures were cut, beside the text conditioning.

        frames: [n, 6], height and width of the photo, top and left of the crop in the scaled photo,
        height and width of the crop, in pixels.
        """
        return {}

    def encode_images(self, vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, H, W] in -1..1 -> mean and standard deviation [n, c, h, w] of the scaled
        latents.
        """
        spread, scale = vae.encode(pixels).latent_dist, vae.config.scaling_factor
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return (spread.mean - shift) * scale, spread.std * scale

    def unscale_latents(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """The pipeline's latents of a picture of height x width pixels -> what the VAE decodes."""
        shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
        return latents / pipe.vae.config.scaling_factor + shift

    def decode(self, vae: nn.Module, latents: Tensor) -> Tensor:
        """What `unscale_latents` gives [n, c, h, w] -> pixels [n, 3, H, W] in -1..1."""
        return vae.decode(latents.to(vae.dtype), return_dict=False)[0]

    def batches(self, pipe: Any, prompts: Sequence[str]) -> bool:
        """Whether a batch of these prompts gives each the picture that it has alone."""
        return True

    def enable_gradient_checkpointing(self, denoiser: nn.Module) -> None:
        """Let the denoiser keep fewer activations, and compute them again for the gradient."""
        denoiser.enable_gradient_checkpointing()

    def training_scheduler(self, scheduler: Any) -> Any:
        """The noise scheduler of training, made from the configuration of the pipeline's own."""
        raise NotImplementedError

    def sample_timestep(self, random: torch.Generator, count: int, config: TrainConfig) -> Tensor:
        """A random timestep [] below `count`, distributed as in the base's training."""
        raise NotImplementedError

    def add_noise(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Latents and noise [n, c, h, w], timesteps [n] -> noisy latents, in the latents' shape."""
        raise NotImplementedError

    def target(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What `predict` should return, in the latents' shape."""
        raise NotImplementedError

    def model_timesteps(self, scheduler: Any, steps: Tensor) -> Tensor:
        """Timesteps [n] -> the values [n] that the denoiser takes for them."""
        return steps

    def weights(self, scheduler: Any, steps: Tensor, config: TrainConfig) -> Tensor:
        """The weight of the loss at each timestep, [n]."""
        raise NotImplementedError

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The denoiser's output for noisy latents, in their shape.

        guidance: the input of a guidance-distilled denoiser, ignored by others.
        """
        raise NotImplementedError

    def sampling(self, pipe: Any) -> Sampling:
        """The steps and guidance that the base is used with if the user names none."""
        return self.defaults

    def call_kwargs(self, pipe: Any, width: int, height: int) -> dict[str, Any]:
        """Arguments of the pipeline's call for pictures of width x height pixels."""
        return {"width": width, "height": height}

    def step_kwargs(self, stepped: Callable[..., dict]) -> dict[str, Any]:
        """The function to call after each step, as an argument of the pipeline's call."""
        return {"callback_on_step_end": stepped}

    def guidance_kwargs(self, guidance: float, negative_prompt: str) -> dict[str, Any]:
        """Guidance as arguments of the pipeline's call; ValueError for what it cannot do."""
        return {"guidance_scale": guidance, "negative_prompt": negative_prompt or self.negative}


def plain_tokenizer(pipe: Any, name: str) -> Any:
    """A pipeline's tokenizer of this name, which may be inside a processor; None if it has none."""
    found = getattr(pipe, name, None)
    return getattr(found, "tokenizer", found)


def clip_ids(tokenizer: Any, prompts: list[str], length: int | None = None) -> Tensor:
    """Ids [prompts, length], padded and truncated to the given or the tokenizer's length."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=length or tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def distilled_guidance(denoiser: nn.Module, guidance: float, noisy: Tensor) -> Tensor | None:
    """The guidance [n] of a denoiser that takes it as an input; None for one that does not."""
    count = len(noisy)
    takes = denoiser.config.guidance_embeds
    return torch.full((count,), guidance, device=noisy.device) if takes else None


def no_negative(family: str, negative_prompt: str) -> None:
    """Raise ValueError for a negative prompt that the pipeline would ignore."""
    if negative_prompt:
        raise ValueError(f"{family} takes no negative prompt; leave it empty.")


def _classes(model: Any) -> list[str]:
    """Names of a model's class and its base classes; for a compiled model, of the model inside."""
    return (
        [kind.__name__ for kind in type(unwrap_module(model)).__mro__] if model is not None else []
    )


def _present(pipe: Any, names: Iterable[str]) -> dict[str, nn.Module]:
    """Name -> model of the components that exist; for a `torch.compile`d one, the model inside."""
    found = {name: getattr(pipe, name, None) for name in names}
    return {name: unwrap_module(model) for name, model in found.items() if model is not None}
