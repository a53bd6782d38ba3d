"""Qwen-Image: a two-stream MMDiT that reads Qwen2.5-VL; its VAE is one for video, of one frame.

Qwen-Image-Edit is trained and used here as a base for plain text to image: no picture is given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import FIRST, Flow, Sampling, WordOutput, from_patches, pad, to_patches, trim, unpatched


class VideoLatents(Flow):
    """Families with the VAE of Qwen-Image: pictures are films of one frame."""

    def encode_images(self, vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, H, W] in -1..1 -> mean and standard deviation [n, c, h, w] of the
        latents, normalised by the statistics of the VAE's configuration.
        """
        spread = vae.encode(pixels.unsqueeze(2)).latent_dist
        mean, deviation = video_statistics(vae, pixels)
        found = (spread.mean.squeeze(2) - mean) / deviation
        return found, spread.std.squeeze(2) / deviation

    def unscale_latents(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """Patches [1, rows x columns, 4c] -> what the VAE decodes [1, c, h, w]."""
        mean, deviation = video_statistics(pipe.vae, latents)
        found = unpatched(pipe, latents, height, width)
        return found / (1.0 / deviation) + mean  # rounded as there

    def decode(self, vae: nn.Module, latents: Tensor) -> Tensor:
        """Latents [n, c, h, w], unscaled -> pixels [n, 3, H, W] in -1..1."""
        return super().decode(vae, latents.unsqueeze(2)).squeeze(2)


class QwenImage(VideoLatents):
    """Qwen-Image and Qwen-Image-Edit. As with FLUX.2, the language model stays frozen."""

    name = "qwen-image"
    title = "Qwen-Image"
    bases = {
        "Qwen-Image": "Qwen/Qwen-Image",
        "Qwen-Image-Edit": "Qwen/Qwen-Image-Edit-2509",
    }
    pipelines = ("QwenImagePipeline",)
    editing = ("QwenImageEditPipeline", "QwenImageEditPlusPipeline")
    models = ("QwenImageTransformer2DModel",)
    text_model = "Qwen2_5_VL"
    dtype = "bfloat16"
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "states", layers=(-1,)),)
    defaults = Sampling(steps=50, guidance=4.0)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """Hidden states [n, longest, width], padded with zeros, and their mask [n, longest]."""
        read = (pipe.encode_prompt(one, device, max_sequence_length=512)[0][0] for one in prompts)
        return pad([*read])

    def predict(
        self, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: dict, guidance: float = 1.0
    ) -> Tensor:
        """The transformer's output [n, channels, h, w], from patches of 2 x 2."""
        rows, columns = noisy.shape[2] // 2, noisy.shape[3] // 2
        states, there = trim(text)
        found = denoiser(
            hidden_states=to_patches(noisy),
            timestep=times / 1000,
            encoder_hidden_states=states,
            encoder_hidden_states_mask=there,
            img_shapes=[[(1, rows, columns)]] * len(noisy),
        ).sample
        return from_patches(found, rows, columns)

    def guidance_kwargs(self, guidance: float, negative_prompt: str) -> dict[str, Any]:
        """The second pass needs a negative prompt; its makers take a space for none."""
        return {"true_cfg_scale": guidance, "negative_prompt": negative_prompt or " "}


def video_statistics(vae: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [1, c, 1, 1] of a video VAE's latents, in the type of `like`."""
    values = (vae.config.latents_mean, vae.config.latents_std)
    mean, deviation = (torch.tensor(value).view(1, -1, 1, 1).to(like) for value in values)
    return mean, deviation
