"""Ideogram 4: one stream of text and picture tokens that reads thirteen layers of Qwen3-VL.

    noisy = (1 - s) latents + s noise        s = sigmoid(N(log(side / 512), 1.5))

s is not shifted: larger pictures are sampled with more noise instead. The transformer's time goes
from noise (0) to picture (1) and it predicts `latents - noise`, so both are reversed here. Of its
two transformers, the one that sees the prompt is trained, as in diffusers' script.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...settings import TrainConfig
from .. import FIRST, Flow, Sampling, WordOutput, no_negative, pad, patch_grid, places, trim
from .flux2 import statistics

SIZE = 2048  # px, the pipeline's own
SPREAD = 1.5  # of the noise levels' logits
LAYERS = (*range(1, 35, 3), 36)  # hidden states that are read; the last one before its norm
WORD, PICTURE, FIRST_PLACE = 3, 2, 65536  # kinds of tokens, and where those of pictures begin


class Ideogram4(Flow):
    """Ideogram 4. Its language model stays frozen."""

    name = "ideogram-4"
    title = "Ideogram 4"
    bases = {"Ideogram 4": "ideogram-ai/ideogram-v4"}
    pipelines = ("Ideogram4Pipeline",)
    models = ("Ideogram4Transformer2DModel",)
    text_model = "Qwen3VL"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "states", layers=LAYERS, one_by_one=True),)
    length = 512  # as in diffusers' script; the pipeline's 2,048 are padding for most prompts
    scheme = "logit_normal"
    side = SIZE
    defaults = Sampling(steps=48, guidance=7.0)

    def call_kwargs(self, pipe: Any, width: int, height: int) -> dict[str, Any]:
        """The size, and the tokens that a prompt is padded to."""
        return super().call_kwargs(pipe, width, height) | {"max_sequence_length": self.length}

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """Hidden states [n, longest, 13 widths] and their mask, by the pipeline's own method, each
        prompt at its own length, and the layers side by side.
        """
        read = []
        for prompt in prompts:
            said = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
            text = pipe.tokenizer.apply_chat_template(
                said, add_generation_prompt=True, tokenize=False
            )
            count = len(pipe.tokenizer(text, add_special_tokens=False).input_ids)
            mixed = pipe.encode_prompt(prompt, 0, 0, count, device)[0][0]
            read.append(mixed.unflatten(1, (-1, len(LAYERS))).transpose(1, 2).flatten(1))
        return pad(read)

    def encode_images(self, vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, H, W] -> patches of 2 x 2 [n, 4c, h/2, w/2], normalised by the VAE's
        statistics. As in diffusers' script the mean is used, so the standard deviation is 0.
        """
        latents = vae.encode(pixels).latent_dist.mode().unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        latents = latents.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
        mean, deviation = statistics(vae, latents)
        return (latents - mean) / deviation, torch.zeros_like(latents)

    def unscale_latents(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """Patches [1, rows x columns, 4c] -> what the VAE decodes."""
        rows, columns = patch_grid(pipe, height, width)
        patches = latents.transpose(1, 2).unflatten(2, (rows, columns))
        mean, deviation = statistics(pipe.vae, patches)
        patches = (patches * deviation + mean).unflatten(1, (2, 2, -1))
        return patches.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)

    def check(self, config: TrainConfig) -> None:
        """Raise ValueError also for a spread of noise levels without the scheme that takes it."""
        super().check(config)
        if not config.weighting_scheme and config.logit_std != 1.0:
            raise ValueError(
                f"the noise levels of this base spread by {SPREAD}; with logit_std, pass "
                "weighting_scheme logit_normal."
            )

    def sample_timestep(self, random: torch.Generator, count: int, config: TrainConfig) -> Tensor:
        """A timestep [] below `count`; the scheme samples noise levels, which fall with it."""
        shift = math.log((config.resolution or SIZE) / 512)
        spread = config.logit_std if config.weighting_scheme else SPREAD
        moved = replace(config, logit_mean=config.logit_mean + shift, logit_std=spread)
        return count - 1 - super().sample_timestep(random, count, moved)

    def levels(self, scheduler: Any, steps: Tensor) -> Tensor:
        """Noise levels s [n] of timesteps, without the scheduler's shift."""
        return 1 - steps / scheduler.config.num_train_timesteps

    def model_timesteps(self, scheduler: Any, steps: Tensor) -> Tensor:
        """Timesteps [n] -> the transformer's time [n], 0 to 1."""
        return steps / scheduler.config.num_train_timesteps

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], with its sign reversed."""
        states, there = trim(text)
        states = states.unflatten(2, (len(LAYERS), -1)).transpose(2, 3).flatten(2)  # as it reads
        count, channels, rows, columns = noisy.shape
        words, patches = states.shape[1], rows * columns
        picture = torch.ones(count, patches, dtype=torch.bool, device=noisy.device)
        shown = torch.cat([there, picture], dim=1)
        kinds = torch.cat([WORD * there.long(), PICTURE * picture.long()], dim=1)
        line = torch.arange(words).unsqueeze(1).expand(-1, 3)
        where = torch.cat([line, FIRST_PLACE + places(rows, columns)]).to(noisy.device)
        found = denoiser(
            hidden_states=nn.functional.pad(noisy.flatten(2), (words, 0)).transpose(1, 2),
            timestep=times.to(noisy),
            encoder_hidden_states=nn.functional.pad(states, (0, 0, 0, patches)),
            position_ids=where.expand(count, -1, -1),
            segment_ids=torch.where(shown, 1, -1),
            indicator=kinds,
        ).sample
        return -found[:, words:].transpose(1, 2).reshape(noisy.shape)

    def guidance_kwargs(self, guidance: float, negative_prompt: str) -> dict[str, Any]:
        """The same guidance at each step; a transformer without a prompt makes the second pass."""
        no_negative("Ideogram 4", negative_prompt)
        return {"guidance_scale": guidance, "guidance_schedule": None}
