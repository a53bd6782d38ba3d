"""FLUX.1: double- and single-stream blocks, T5 for the prompt, and CLIP's pooled vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import (
    FIRST,
    SECOND,
    PatchedFlow,
    Sampling,
    WordOutput,
    clip_ids,
    distilled_guidance,
    from_patches,
    no_negative,
    places,
    to_patches,
)


class Flux(PatchedFlow):
    """FLUX.1 dev and schnell, and Kontext as a base for plain text to image. A concept may edit
    CLIP; T5 stays frozen.
    """

    name = "flux"
    title = "FLUX.1"
    bases = {
        "FLUX.1": "black-forest-labs/FLUX.1-dev",
        "FLUX.1 Kontext": "black-forest-labs/FLUX.1-Kontext-dev",
    }
    pipelines = ("FluxPipeline",)
    editing = ("FluxKontextPipeline",)
    models = ("FluxTransformer2DModel",)
    dtype = "bfloat16"
    encoders = (FIRST,)
    frozen_text_encoders = (SECOND,)
    word_outputs = (WordOutput(SECOND, "encoder_hidden_states"),)
    original = ("flux-dev", "flux-schnell")
    defaults = Sampling(steps=28, guidance=3.5)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """T5's hidden states [n, 512, width]."""
        ids = clip_ids(pipe.tokenizer_2, prompts, self.length).to(device)
        return {"encoder_hidden_states": pipe.text_encoder_2(ids)[0]}

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """CLIP's ids [n, length], T5's states -> T5's states, CLIP's pooled vector [n, width]."""
        return {**(read or {}), "pooled_projections": pipe.text_encoder(ids[0]).pooler_output}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], from patches of 2 x 2."""
        rows, columns = noisy.shape[2] // 2, noisy.shape[3] // 2
        words = torch.zeros(text["encoder_hidden_states"].shape[1], 3)
        found = denoiser(
            hidden_states=to_patches(noisy),
            timestep=times / 1000,
            guidance=distilled_guidance(denoiser, guidance, noisy),
            txt_ids=words.to(noisy),
            img_ids=places(rows, columns).to(noisy),
            **text,
        ).sample
        return from_patches(found, rows, columns)

    def sampling(self, pipe: Any) -> Sampling:
        """The pipeline's own for dev; schnell takes four steps without guidance."""
        dev = pipe.transformer.config.guidance_embeds
        return self.defaults if dev else Sampling(steps=4, guidance=0.0)

    def guidance_kwargs(self, guidance: float, negative_prompt: str) -> dict[str, Any]:
        """Guidance is an input of the transformer: there is no second, negative pass."""
        no_negative("FLUX.1", negative_prompt)
        return {"guidance_scale": guidance}
