"""HiDream-I1: a mixture of experts that reads T5, all layers of Llama, and pooled CLIP vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, FOURTH, SECOND, THIRD, Flow, PromptTokenizer, Sampling, WordOutput

LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct"


class HiDream(Flow):
    """HiDream-I1. CLIP gives pooled vectors alone, so all four encoders stay frozen, as in
    diffusers' script. Llama is not in its repository, for its licence is Meta's.
    """

    name = "hidream"
    title = "HiDream-I1"
    bases = {"HiDream-I1": "HiDream-ai/HiDream-I1-Full"}
    pipelines = ("HiDreamImagePipeline",)
    models = ("HiDreamImageTransformer2DModel",)
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST, SECOND, THIRD, FOURTH)
    word_outputs = (WordOutput(THIRD, "t5"), WordOutput(FOURTH, "llama", layers=(-1,)))
    elsewhere = {
        FOURTH.model: ("LlamaForCausalLM", LLAMA),
        FOURTH.tokenizer: ("PreTrainedTokenizerFast", LLAMA),
    }
    length = 128
    side = 1024
    defaults = Sampling(steps=50, guidance=5.0)

    def call_kwargs(self, pipe: Any, width: int, height: int) -> dict[str, int]:
        """The pipeline scales each size to the area of its default one, so that is set to it."""
        side = math.sqrt(width * height) * (1 + 1e-6)  # it rounds down
        pipe.default_sample_size = side / pipe.vae_scale_factor
        return {"width": width, "height": height}

    def prompt_tokenizers(self, pipe: Any) -> list[PromptTokenizer]:
        """T5 and Llama; CLIP's vectors say little."""
        return super().prompt_tokenizers(pipe)[2:]

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """T5's states [n, 128, width], Llama's of its last layer [n, 128, width] and of those below
        [n, layers - 1, 128, width], and CLIP's pooled vectors [n, widths].
        """
        t5, _, llama, _, pooled, _ = pipe.encode_prompt(
            list(prompts), device=device, do_classifier_free_guidance=False
        )
        below = llama[:-1].transpose(0, 1)
        return {"t5": t5, "llama": llama[-1], "below": below, "pooled_embeds": pooled}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], with its sign reversed.

        Out of training it computes its experts without a gradient; here they get theirs.
        """
        below = text["below"].transpose(0, 1)
        for module in denoiser.modules():
            if type(module).__name__ == "MOEFeedForwardSwiGLU":
                module.training = torch.is_grad_enabled()
        found = denoiser(
            hidden_states=noisy,
            timesteps=times,
            encoder_hidden_states_t5=text["t5"],
            encoder_hidden_states_llama3=torch.cat([below, text["llama"].unsqueeze(0)]),
            pooled_embeds=text["pooled_embeds"],
        ).sample
        return -_in_place(found, noisy)


def _in_place(found: Tensor, noisy: Tensor) -> Tensor:
    """Latents [n, c, h, w]; in training the transformer leaves them as patches [n, c, patches, 4],
    padded where they are not square.
    """
    if found.shape == noisy.shape:
        return found
    count, channels, height, width = noisy.shape
    rows, columns = height // 2, width // 2
    patches = found[:, :, : rows * columns].reshape(count, channels, rows, columns, 2, 2)
    return patches.permute(0, 1, 2, 4, 3, 5).reshape(noisy.shape)
