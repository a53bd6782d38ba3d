"""Z-Image: one stream of text and picture tokens, with Qwen3 as its text encoder.

The transformer's time goes from noise (0) to picture (1) and it predicts `latents - noise`, so both
are reversed here. It takes pictures and prompts as lists, each prompt without its padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Flow, Sampling, WordOutput, pad


class ZImage(Flow):
    """Z-Image. As with FLUX.2, its language model stays frozen."""

    name = "z-image"
    title = "Z-Image"
    bases = {"Z-Image": "Tongyi-MAI/Z-Image"}
    pipelines = ("ZImagePipeline",)
    models = ("ZImageTransformer2DModel",)
    text_model = "Qwen3"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "states", layers=(-2,)),)
    side = 1024
    defaults = Sampling(steps=50, guidance=5.0)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """Hidden states [n, longest, width], padded with zeros, and their mask [n, longest]."""
        found = pipe.encode_prompt(list(prompts), device, do_classifier_free_guidance=False)[0]
        return pad(found)

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], with its time and sign reversed."""
        words = [s[t > 0.5] for s, t in zip(text["states"], text["there"], strict=True)]
        pictures = list(noisy.unsqueeze(2).unbind(0))
        found = denoiser(pictures, ((1000 - times) / 1000).to(noisy), words).sample
        return -torch.stack(list(found)).squeeze(2)

    def sampling(self, pipe: Any) -> Sampling:
        """Turbo, which only its name tells, takes nine steps without guidance."""
        turbo = "turbo" in str(getattr(pipe.config, "_name_or_path", "")).lower()
        return Sampling(steps=9, guidance=0.0) if turbo else self.defaults
