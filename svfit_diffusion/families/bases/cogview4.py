"""CogView4: one attention over text and picture, with GLM as its text encoder.

    noisy = (1 - s) latents + s noise        s = m / (m + 1 / t - 1),  m = b + a sqrt(tokens / 256)

t is the timestep, 0 to 1, and what the transformer is told; only the noise level s depends on the
picture's size. Source: diffusers' examples/cogview4-control. As SDXL, it is told the picture's
size and crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Flow, Sampling, WordOutput, pad, trim

STEP = 16  # tokens: what the pipeline pads prompts to a multiple of


class CogView4(Flow):
    """CogView4. Its language model stays frozen."""

    name = "cogview4"
    title = "CogView4"
    bases = {"CogView4": "THUDM/CogView4-6B"}
    pipelines = ("CogView4Pipeline",)
    models = ("CogView4Transformer2DModel",)
    text_model = "Glm"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "states", layers=(-2,)),)
    length = 1024
    defaults = Sampling(steps=50, guidance=5.0)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """GLM's hidden states [n, longest, width], each prompt at the pipeline's length for it, a
        multiple of 16, and their mask.
        """
        given = {"do_classifier_free_guidance": False, "device": device}
        return pad([pipe.encode_prompt(prompt, **given)[0][0] for prompt in prompts])

    def batches(self, pipe: Any, prompts: Sequence[str]) -> bool:
        """Only prompts of one padded length: the pipeline attends to the padding, too."""
        ids = pipe.tokenizer(list(prompts), truncation=True, max_length=self.length).input_ids
        return len({math.ceil(len(row) / STEP) for row in ids}) <= 1

    def frame_conditioning(self, frames: Tensor) -> dict[str, Tensor]:
        """Original size, top left corner of the crop, and target size, as they are: [n, 6]."""
        return {"frames": frames}

    def add_noise(self, scheduler: Any, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Latents and noise [n, c, h, w], timesteps [n] -> noisy latents."""
        settings, tokens = scheduler.config, latents.shape[2] * latents.shape[3] / 4
        shift = (tokens / settings.base_image_seq_len) ** 0.5 * settings.max_shift
        shift = shift + settings.base_shift
        level = shift / (shift + 1 / self.levels(scheduler, steps) - 1)
        level = level.view(-1, 1, 1, 1).to(latents)
        return (1 - level) * latents + level * noise

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w].

        Its mask does not keep padding out of the attention, so prompts that differ in length are
        predicted one by one.
        """
        states, there = trim(text)
        original, corner, target = text["frames"].split(2, dim=1)

        def predicted(rows: slice) -> Tensor:
            return denoiser(
                hidden_states=noisy[rows],
                encoder_hidden_states=states[rows, : int(there[rows].sum(1).max())],
                timestep=times[rows],
                original_size=original[rows],
                target_size=target[rows],
                crop_coords=corner[rows],
            ).sample

        if there.all():
            return predicted(slice(None))
        return torch.cat([predicted(slice(i, i + 1)) for i in range(len(noisy))])
