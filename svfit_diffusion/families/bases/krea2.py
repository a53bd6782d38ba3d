"""Krea 2: one stream of text and picture tokens, which reads twelve layers of Qwen3-VL; the VAE is
Qwen-Image's. Krea 2 Raw is trained; Turbo is distilled from it, and made to be generated with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Sampling, WordOutput, from_patches, pad, places, to_patches, trim
from .qwen_image import VideoLatents


class Krea2(VideoLatents):
    """Krea 2. As with Qwen-Image, the language model stays frozen."""

    name = "krea-2"
    title = "Krea 2"
    bases = {"Krea 2": "krea/Krea-2-Raw"}
    pipelines = ("Krea2Pipeline",)
    models = ("Krea2Transformer2DModel",)
    text_model = "Qwen3VL"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "states", layers=tuple(range(2, 36, 3))),)
    length = 507  # tokens of the prompt, in 512 with the template's end
    side = 1024
    defaults = Sampling(steps=28, guidance=4.5)

    def batches(self, pipe: Any, prompts: Sequence[str]) -> bool:
        """One alone: blocks that fuse the text's layers have a row for each token, not picture."""
        return len(prompts) <= 1

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """Hidden states [n, longest, layers x width], and their mask [n, longest].

        The pipeline pads between the prompt and the template's end; the transformer gives all of
        the text one place and masks the padding, so it can as well stand behind.
        """
        states, there = pipe.encode_prompt(list(prompts), device)
        return pad([one[mask].flatten(1) for one, mask in zip(states, there, strict=True)])

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], from patches of 2 x 2."""
        rows, columns = noisy.shape[2] // 2, noisy.shape[3] // 2
        states, there = trim(text)
        words = torch.zeros(states.shape[1], 3)
        found = denoiser(
            hidden_states=to_patches(noisy),
            timestep=times / 1000,
            encoder_hidden_states=states.unflatten(2, (denoiser.config.num_text_layers, -1)),
            encoder_attention_mask=there,
            position_ids=torch.cat([words, places(rows, columns)]).to(noisy.device),
        ).sample
        return from_patches(found, rows, columns)

    def sampling(self, pipe: Any) -> Sampling:
        """Turbo takes eight steps without guidance, Raw the pipeline's own. Here a guidance of 0 is
        none: it counts what is added to the conditional prediction.
        """
        distilled = getattr(pipe.config, "is_distilled", False)
        return Sampling(steps=8, guidance=0.0) if distilled else self.defaults
