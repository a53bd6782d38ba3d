"""Lumina-Image 2.0: one stream of text and picture tokens, with Gemma 2 as its text encoder.

As with Z-Image, the transformer's time goes from noise (0) to picture (1) and it predicts
`latents - noise`, so both are reversed here. diffusers' script for it also reverses the noise
levels that it samples, so that its shift prefers pictures with little noise; here they are those
that the base is sampled with, as for all other families.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Flow, PromptTokenizer, Sampling, WordOutput

PREFIX = " <Prompt Start> "  # which the pipeline puts between its instruction and a prompt


class Lumina2(Flow):
    """Lumina-Image 2.0. Its language model stays frozen."""

    name = "lumina2"
    title = "Lumina-Image 2.0"
    bases = {"Lumina-Image 2.0": "Alpha-VLLM/Lumina-Image-2.0"}
    pipelines = ("Lumina2Pipeline",)
    models = ("Lumina2Transformer2DModel",)
    text_model = "Gemma2"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "encoder_hidden_states", layers=(-2,)),)
    length = 256
    defaults = Sampling(steps=30, guidance=4.0)

    def prompt_tokenizers(self, pipe: Any) -> list[PromptTokenizer]:
        """Gemma, less the tokens of the instruction that the pipeline puts before each prompt."""
        before = pipe.tokenizer(pipe.system_prompt + PREFIX, add_special_tokens=False).input_ids
        return [PromptTokenizer("tokenizer", self.length - len(before))]

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """Gemma's states [n, 256, width] and their mask [n, 256]."""
        states, mask, *_ = pipe.encode_prompt(list(prompts), False, device=device)
        return {"encoder_hidden_states": states, "mask": mask}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], with its time and sign reversed."""
        return -denoiser(
            hidden_states=noisy,
            timestep=1 - times / 1000,
            encoder_hidden_states=text["encoder_hidden_states"],
            encoder_attention_mask=(text["mask"] > 0.5).long(),
        ).sample
