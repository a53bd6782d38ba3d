"""FLUX.1: double- and single-stream blocks, T5 for the words, CLIP's pooled vector beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import clip_ids, no_negative
from .flow import Flow


class Flux(Flow):
    """FLUX.1 dev and schnell. A concept may edit CLIP; T5 reads the words as typed."""

    name = "flux"
    pipelines = ("FluxPipeline",)
    models = ("FluxTransformer2DModel",)
    dtype = "bfloat16"
    encoders = (("tokenizer", "text_encoder"),)
    frozen_text_encoders = (("tokenizer_2", "text_encoder_2"),)
    original = ("flux-dev", "flux-schnell")

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """T5's hidden states [n, 512, width]."""
        ids = clip_ids(pipe.tokenizer_2, prompts, self.length).to(device)
        return {"encoder_hidden_states": pipe.text_encoder_2(ids)[0]}

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """CLIP's ids [n, length] and T5's states -> those, and CLIP's pooled vector [n, width]."""
        return {**(read or {}), "pooled_projections": pipe.text_encoder(ids[0]).pooler_output}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], from patches of two by two."""
        count, channels, height, width = noisy.shape
        rows, columns = height // 2, width // 2
        packed = noisy.reshape(count, channels, rows, 2, columns, 2)
        packed = packed.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, 4 * channels)
        places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
        words = torch.zeros(text["encoder_hidden_states"].shape[1], 3)
        distilled = denoiser.config.guidance_embeds
        found = denoiser(
            hidden_states=packed,
            timestep=times / 1000,
            guidance=torch.full((count,), guidance, device=noisy.device) if distilled else None,
            txt_ids=words.to(noisy),
            img_ids=places.to(noisy),
            **text,
        ).sample
        found = found.reshape(count, rows, columns, channels, 2, 2)
        return found.permute(0, 3, 1, 4, 2, 5).reshape(noisy.shape)

    def unscale_latents(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """Patches [1, rows x columns, 4c] -> what the VAE decodes."""
        latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
        return super().unscale_latents(pipe, latents, height, width)

    def sampling(self, pipe: Any) -> tuple[int, float]:
        """The pipeline's own for dev; schnell is drawn in four steps without guidance."""
        return (28, 3.5) if pipe.transformer.config.guidance_embeds else (4, 0.0)

    def guidance_kwargs(self, guidance: float, negative_prompt: str) -> dict[str, Any]:
        """Guidance is told to the transformer: there is no second, negative pass."""
        no_negative("FLUX.1", negative_prompt)
        return {"guidance_scale": guidance}
