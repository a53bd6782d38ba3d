"""FLUX.2: klein with Qwen3 as its text encoder, dev with Mistral 3.

The transformer takes the hidden states of three layers of the language model, side by side. A
concept does not edit that model: it has 4 to 24 billion parameters, and diffusers' LoRA files have
no place for it. So prompts are encoded once, as typed, and a learned word is added to the states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Flow, Sampling, WordOutput, distilled_guidance, no_negative, patch_grid


class Flux2Klein(Flow):
    """FLUX.2 klein, distilled or not."""

    name = "flux2-klein"
    title = "FLUX.2 klein"
    bases = {
        "FLUX.2 klein 4B": "black-forest-labs/FLUX.2-klein-base-4B",
        "FLUX.2 klein 9B": "black-forest-labs/FLUX.2-klein-base-9B",
    }
    pipelines = ("Flux2KleinPipeline",)
    models = ("Flux2Transformer2DModel",)
    text_model = "Qwen3"
    dtype = "bfloat16"
    defaults = Sampling(steps=50, guidance=4.0)
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "encoder_hidden_states", layers=(9, 18, 27)),)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """The language model's hidden states [n, 512, 3 widths], by the pipeline's own method."""
        return {"encoder_hidden_states": pipe.encode_prompt(prompts, device=device)[0]}

    def encode_images(self, vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, H, W] -> patches of 2 x 2 [n, 4c, h/2, w/2], normalised by the VAE's
        statistics. As in diffusers' script the mean is used, so the standard deviation is 0.
        """
        latents = vae.encode(pixels).latent_dist.mode()
        count, channels, height, width = latents.shape
        latents = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
        latents = latents.permute(0, 1, 3, 5, 2, 4)
        latents = latents.reshape(count, 4 * channels, height // 2, width // 2)
        mean, deviation = statistics(vae, latents)
        latents = (latents - mean) / deviation
        return latents, torch.zeros_like(latents)

    def unscale_latents(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """Patches [1, rows x columns, 4c] -> what the VAE decodes."""
        rows, columns = patch_grid(pipe, height, width)
        latents = latents.transpose(1, 2).reshape(len(latents), -1, rows, columns)
        mean, deviation = statistics(pipe.vae, latents)
        patches = (latents * deviation + mean).unflatten(
            1, (-1, 2, 2)
        )  # as encode_images made them
        patches = patches.permute(0, 1, 4, 2, 5, 3)
        return patches.reshape(len(latents), -1, 2 * rows, 2 * columns)

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w]."""
        count, channels, rows, columns = noisy.shape
        one = torch.arange(1)
        hidden = text["encoder_hidden_states"]
        places = torch.cartesian_prod(one, torch.arange(rows), torch.arange(columns), one)
        words = torch.cartesian_prod(one, one, one, torch.arange(hidden.shape[1]))
        found = denoiser(
            hidden_states=noisy.flatten(2).transpose(1, 2),
            timestep=times / 1000,
            guidance=distilled_guidance(denoiser, guidance, noisy),
            encoder_hidden_states=hidden,
            txt_ids=words.to(noisy.device).repeat(count, 1, 1),
            img_ids=places.to(noisy.device).repeat(count, 1, 1),
        ).sample
        return found.transpose(1, 2).reshape(noisy.shape)

    def sampling(self, pipe: Any) -> Sampling:
        """A distilled base takes four steps without guidance, others the pipeline's own."""
        distilled = getattr(pipe.config, "is_distilled", False)
        return Sampling(steps=4, guidance=1.0) if distilled else self.defaults

    def guidance_kwargs(self, guidance: float, negative_prompt: str) -> dict[str, Any]:
        """The pipeline's second pass always takes an empty prompt."""
        no_negative("FLUX.2", negative_prompt)
        return {"guidance_scale": guidance}


def statistics(vae: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [1, 4c, 1, 1] of patches, from the VAE's batch norm."""
    mean = vae.bn.running_mean.view(1, -1, 1, 1).to(latents)
    variance = vae.bn.running_var.view(1, -1, 1, 1).to(latents)
    return mean, (variance + vae.config.batch_norm_eps).sqrt()


class Flux2(Flux2Klein):
    """FLUX.2 dev: guidance is an input of the transformer."""

    name = "flux2"
    title = "FLUX.2"
    bases = {"FLUX.2 dev": "black-forest-labs/FLUX.2-dev"}
    pipelines = ("Flux2Pipeline",)
    text_model = "Mistral3"
    word_outputs = (WordOutput(FIRST, "encoder_hidden_states", layers=(10, 20, 30)),)
