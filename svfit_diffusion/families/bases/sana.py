"""Sana: linear attention on latents of an autoencoder that halves pictures five times, and Gemma 2
as its text encoder. Published with a DPM-Solver; trained by plain flow matching.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Flow, Sampling, WordOutput


class Sana(Flow):
    """Sana and Sana 1.5. Its language model stays frozen."""

    name = "sana"
    title = "Sana"
    bases = {"Sana 1.6B": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"}
    pipelines = ("SanaPipeline",)
    models = ("SanaTransformer2DModel",)
    text_model = "Gemma2"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "encoder_hidden_states"),)
    length = 299  # of 300, the first is the end of the pipeline's instruction
    negative = ""  # and not None
    defaults = Sampling(steps=20, guidance=4.5)

    def size_multiple(self, pipe: Any) -> int:
        """A latent and a patch of it."""
        return pipe.vae_scale_factor * pipe.transformer.config.patch_size

    def call_kwargs(self, pipe: Any, width: int, height: int) -> dict[str, Any]:
        """The size itself, not the nearest of the pipeline's list."""
        return {"width": width, "height": height, "use_resolution_binning": False}

    def training_scheduler(self, scheduler: Any) -> Any:
        """Flow matching as diffusers' script makes it of the solver's configuration: unshifted."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        count = scheduler.config.num_train_timesteps
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=count)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """Gemma's states [n, 300, width] and their mask [n, 300], of the prompts behind the
        instruction that the pipeline puts before them by default.
        """
        default = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default
        states, mask, *_ = pipe.encode_prompt(
            list(prompts), False, device=device, complex_human_instruction=default
        )
        return {"encoder_hidden_states": states, "mask": mask}

    def encode_images(self, vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, H, W] in -1..1 -> scaled latents [n, c, h, w], which have no deviation."""
        latents = vae.encode(pixels).latent * vae.config.scaling_factor
        return latents, torch.zeros_like(latents)

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w]."""
        return denoiser(
            hidden_states=noisy,
            timestep=times * denoiser.config.timestep_scale,
            encoder_hidden_states=text["encoder_hidden_states"],
            encoder_attention_mask=text["mask"],
        ).sample
