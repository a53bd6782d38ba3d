"""The UNet of Toybox and its noise schedule (v-prediction, zero terminal SNR)."""

from __future__ import annotations

import torch
from common import LATENT_CHANNELS, LATENT_SIZE
from diffusers import DDIMScheduler, UNet2DConditionModel
from text_model import WIDTH

WIDTHS = (64, 128, 192)
LAYERS = (3, 1, 1)  # residual blocks of each resolution


def build_unet(
    widths: tuple[int, ...] = WIDTHS, layers: tuple[int, ...] = LAYERS
) -> UNet2DConditionModel:
    """A fresh UNet on 16 x 16 x 16 latents; no attention at 16 x 16.

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


def carried_over(state: dict[str, torch.Tensor], unet: UNet2DConditionModel) -> dict:
    """The weights of a UNet of fewer latent channels, or fewer blocks at 16 x 16, in a larger one.

    It computes the same: what is new adds nothing yet, and the new channels are predicted as 0.
    """
    fresh, down, up = unet.state_dict(), "down_blocks.0.resnets", "up_blocks.2.resnets"
    old, new = _count(state, down), _count(fresh, down)
    moved = {}  # the up path's first block takes the skip of the last one of the down path
    for name, weight in state.items():
        head, _, rest = name.removeprefix(up + ".").partition(".")
        if name.startswith(up) and int(head) > 0:
            name = f"{up}.{int(head) + new - old}.{rest}"
        moved[name] = weight
    for name, weight in fresh.items():
        if name not in moved:
            moved[name] = torch.zeros_like(weight) if ".conv2." in name else weight.clone()
            if "conv_shortcut" in name:
                moved[name].zero_()
            if name.endswith("conv_shortcut.weight"):  # what comes from below, and not the skip
                moved[name][:, : len(weight), 0, 0] = torch.eye(len(weight))
    for name, axis in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
        wide = torch.zeros_like(fresh[name])
        wide.narrow(axis, 0, state[name].shape[axis]).copy_(state[name])
        moved[name] = wide
    return moved


def _count(state: dict[str, torch.Tensor], blocks: str) -> int:
    """How many blocks there are."""
    return len({name.split(".")[3] for name in state if name.startswith(blocks)})


def build_scheduler() -> DDIMScheduler:
    """The scheduler that the pipeline ships with."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, steps_offset=1, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
