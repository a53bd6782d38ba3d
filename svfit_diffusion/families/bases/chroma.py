"""Chroma: FLUX.1 schnell's blocks without guidance and without CLIP; T5 alone reads the prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import FIRST, PatchedFlow, Sampling, WordOutput, from_patches, places, to_patches


class Chroma(PatchedFlow):
    """Chroma. T5 stays frozen."""

    name = "chroma"
    title = "Chroma"
    bases = {"Chroma": "lodestones/Chroma1-HD"}
    pipelines = ("ChromaPipeline",)
    models = ("ChromaTransformer2DModel",)
    text_model = "T5"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "encoder_hidden_states"),)
    original = ("chroma",)
    defaults = Sampling(steps=35, guidance=5.0)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """T5's hidden states [n, 512, width], and the mask [n, 512] of the prompt and one token of
        padding.
        """
        states, _, mask, *_ = pipe.encode_prompt(
            list(prompts), device=device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": states, "mask": mask}

    def enable_gradient_checkpointing(self, denoiser: nn.Module) -> None:
        """diffusers 0.42 calls single-stream blocks without the mask then; here they get that of
        the double-stream blocks, which come first.
        """
        masks: dict[str, Tensor] = {}

        def recomputed(block: nn.Module, *given: Any) -> Any:
            if len(given) == 5:
                masks["last"] = given[4]
            elif len(given) == 3:
                given = (*given, masks["last"])
            return checkpoint(block, *given, use_reentrant=False)

        denoiser.enable_gradient_checkpointing(recomputed)

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], from patches of 2 x 2."""
        rows, columns = noisy.shape[2] // 2, noisy.shape[3] // 2
        hidden, mask = text["encoder_hidden_states"], text["mask"]
        found = denoiser(
            hidden_states=to_patches(noisy),
            timestep=times / 1000,
            encoder_hidden_states=hidden,
            attention_mask=torch.cat([mask, mask.new_ones(len(noisy), rows * columns)], dim=1),
            txt_ids=torch.zeros(hidden.shape[1], 3).to(noisy),
            img_ids=places(rows, columns).to(noisy),
        ).sample
        return from_patches(found, rows, columns)
