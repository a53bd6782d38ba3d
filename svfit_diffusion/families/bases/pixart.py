"""PixArt-Sigma: a diffusion transformer with T5, trained by diffusion as Stable Diffusion is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Diffusion, Sampling, WordOutput


class PixArtSigma(Diffusion):
    """PixArt-Sigma. T5 stays frozen. The transformer predicts noise, and a variance that neither
    its sampler nor this loss uses.
    """

    name = "pixart-sigma"
    title = "PixArt-Sigma"
    bases = {"PixArt-Sigma": "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"}
    pipelines = ("PixArtSigmaPipeline",)
    models = ("PixArtTransformer2DModel",)
    text_model = "T5"
    dtype = "float16"
    denoiser = "transformer"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "encoder_hidden_states"),)
    length = 300
    negative = ""  # and not None
    defaults = Sampling(steps=20, guidance=4.5)

    def size_multiple(self, pipe: Any) -> int:
        """Two latents: they are cut into patches of 2 x 2."""
        return pipe.vae_scale_factor * pipe.transformer.config.patch_size

    def call_kwargs(self, pipe: Any, width: int, height: int) -> dict[str, Any]:
        """The size itself, not the nearest of the pipeline's list, and the prompt as it is."""
        binned = {"use_resolution_binning": False, "clean_caption": False}
        return super().call_kwargs(pipe, width, height) | binned

    def step_kwargs(self, stepped: Callable[..., Any]) -> dict[str, Any]:
        """The pipeline has the older form of a callback."""

        def callback(step: int, time: Any, latents: Tensor) -> None:
            stepped(None, step, time, {"latents": latents})

        return {"callback": callback}

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """T5's hidden states [n, 300, width] and their mask [n, 300]."""
        states, mask, *_ = pipe.encode_prompt(list(prompts), False, device=device)
        return {"encoder_hidden_states": states, "mask": mask}

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], without the variance."""
        found = denoiser(
            noisy,
            timestep=times,
            encoder_hidden_states=text["encoder_hidden_states"],
            encoder_attention_mask=text["mask"],
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return found[:, : noisy.shape[1]]
