"""The UNet of Toybox and its noise schedule (v-prediction, zero terminal SNR)."""

from __future__ import annotations

import torch
from common import LATENT_CHANNELS, LATENT_SIZE
from diffusers import DDIMScheduler, UNet2DConditionModel
from text_model import WIDTH

WIDTHS = (64, 128, 192)
LAYERS = (2, 1, 1)  # residual blocks of each resolution


def build_unet(
    widths: tuple[int, ...] = WIDTHS, layers: tuple[int, ...] = LAYERS
) -> UNet2DConditionModel:
    """A fresh UNet on 16 x 16 x 8 latents; no attention at 16 x 16.

    The pooled text joins the time embedding, as in SDXL, but from the one text encoder's states,
    so that StableDiffusionPipeline needs nothing more. That path starts silent.
    """
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=widths,
        layers_per_block=layers,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    torch.nn.init.zeros_(unet.add_embedding.norm2.weight)
    return unet.to(memory_format=torch.channels_last)


def build_scheduler() -> DDIMScheduler:
    """The scheduler that the pipeline ships with."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, steps_offset=1, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
