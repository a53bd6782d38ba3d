"""AuraFlow: an MMDiT followed by single-stream blocks, which reads UMT5 without its padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Flow, Sampling, WordOutput


class AuraFlow(Flow):
    """AuraFlow. T5 stays frozen. There is no script of diffusers for it; the loss is that of its
    sampler, and timesteps are sampled evenly.
    """

    name = "auraflow"
    title = "AuraFlow"
    bases = {"AuraFlow 0.3": "fal/AuraFlow-v0.3"}
    pipelines = ("AuraFlowPipeline",)
    models = ("AuraFlowTransformer2DModel",)
    text_model = "UMT5"
    dtype = "float16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "encoder_hidden_states"),)
    length = 256
    side = 1024
    defaults = Sampling(steps=50, guidance=3.5)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """T5's hidden states [n, 256, width], zeros where the prompt is padded."""
        states, *_ = pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=device
        )
        return {"encoder_hidden_states": states}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w]."""
        return denoiser(hidden_states=noisy, timestep=(times / 1000).to(noisy), **text).sample
