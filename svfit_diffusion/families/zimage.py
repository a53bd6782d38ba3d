"""Z-Image: one stream of text and picture tokens, with Qwen3 as its text encoder.

The transformer's time goes from noise (0) to picture (1) and it predicts `latents - noise`, so both
are reversed here. It takes pictures and prompts as lists, each prompt without its padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import FIRST, Sampling, WordOutput
from .flow import Flow


class ZImage(Flow):
    """Z-Image. As with FLUX.2, its language model stays frozen."""

    name = "z-image"
    pipelines = ("ZImagePipeline",)
    models = ("ZImageTransformer2DModel",)
    text_model = "Qwen3"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "states", layers=(-2,)),)
    defaults = Sampling(steps=50, guidance=5.0)

    def size(self, pipe: Any) -> int:
        """The pipeline's own."""
        return 1024

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """Hidden states [n, 512, width], padded with zeros, and their mask [n, 512]."""
        found = pipe.encode_prompt(list(prompts), device, do_classifier_free_guidance=False)[0]
        states = found[0].new_zeros(len(found), self.length, found[0].shape[-1])
        there = states.new_zeros(len(found), self.length)
        for i, one in enumerate(found):
            states[i, : len(one)], there[i, : len(one)] = one, 1
        return {"states": states, "there": there}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], with its time and sign reversed."""
        words = [s[t > 0.5] for s, t in zip(text["states"], text["there"], strict=True)]
        pictures = list(noisy.unsqueeze(2).unbind(0))
        found = denoiser(pictures, ((1000 - times) / 1000).to(noisy), words).sample
        return -torch.stack(list(found)).squeeze(2)
