"""Stable Diffusion 3 and 3.5: an MMDiT, two CLIP encoders and T5 (arXiv 2403.03206)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import FIRST, SECOND, THIRD, Flow, Sampling, WordOutput, clip_ids
from .sd import clip_pair


class StableDiffusion3(Flow):
    """SD3 and SD3.5. A concept may edit the CLIP encoders; T5 stays frozen, as in diffusers'
    script: it is six times as large as the larger CLIP.
    """

    name = "sd3"
    title = "Stable Diffusion 3"
    bases = {
        "SD 3.5 medium": "stabilityai/stable-diffusion-3.5-medium",
        "SD 3.5 large": "stabilityai/stable-diffusion-3.5-large",
    }
    pipelines = ("StableDiffusion3Pipeline",)
    models = ("SD3Transformer2DModel",)
    dtype = "float16"
    encoders = (FIRST, SECOND)
    frozen_text_encoders = (THIRD,)
    word_outputs = (WordOutput(THIRD, "t5"),)
    original = ("sd3", "sd35_medium", "sd35_large")
    scheme = "logit_normal"
    length = 256  # tokens that T5 reads, as the pipeline's default
    defaults = Sampling(steps=28, guidance=7.0)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """T5's hidden states [n, 256, width]; zeros if the base was loaded without T5."""
        if pipe.text_encoder_3 is None:
            width = pipe.transformer.config.joint_attention_dim
            return {"t5": torch.zeros(len(prompts), self.length, width, device=device)}
        ids = clip_ids(pipe.tokenizer_3, prompts, self.length).to(device)
        return {"t5": pipe.text_encoder_3(ids)[0]}

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Ids of both CLIPs, T5's states -> hidden states [n, lengths, width], pooled [n, widths].

        CLIP's states, side by side and padded with zeros to T5's width, come before T5's.
        """
        hidden, pooled = clip_pair(pipe, self.encoders, ids)
        t5 = (read or {})["t5"].to(hidden)
        hidden = F.pad(hidden, (0, t5.shape[-1] - hidden.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([hidden, t5], dim=1),
            "pooled_projections": torch.cat(pooled, dim=-1),
        }

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w]."""
        return denoiser(hidden_states=noisy, timestep=times, **text).sample
