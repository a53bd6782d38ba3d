"""The UNet of Toybox and its noise schedule (v-prediction, zero terminal SNR)."""

from __future__ import annotations

import re

import torch
from common import LATENT_CHANNELS, LATENT_SIZE
from diffusers import DDIMScheduler, UNet2DConditionModel
from text_model import WIDTH

WIDTHS = (64, 128, 192)
LAYERS = (3, 1, 1)  # residual blocks of each resolution
BLOCK = re.compile(
    r"(?P<blocks>(?P<way>down|up)_blocks\.\d\.(?:resnets|attentions))\.(?P<index>\d+)\.(?P<rest>.*)"
)


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
    """The weights of a UNet of fewer latent channels, or fewer blocks, in a larger one.

    It computes the same: what is new adds nothing yet, and the new channels are predicted as 0. A
    new block is otherwise a copy of its neighbour.
    """
    fresh, moved = unet.state_dict(), {}
    for name, weight in state.items():
        if (place := BLOCK.match(name)) and place["way"] == "up" and int(place["index"]) > 0:
            # an up path's first block takes the skip of the last one of the down path
            added = _count(fresh, place["blocks"]) - _count(state, place["blocks"])
            name = f"{place['blocks']}.{int(place['index']) + added}.{place['rest']}"
        moved[name] = weight
    for name, weight in fresh.items():
        if name not in moved:
            moved[name] = _silent(name, weight, state)
    for name, axis in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
        wide = torch.zeros_like(fresh[name])
        wide.narrow(axis, 0, state[name].shape[axis]).copy_(state[name])
        moved[name] = wide
    return moved


def _silent(name: str, weight: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """A weight of a new block, like that of the last one of its kind that was there."""
    place = BLOCK.match(name)
    last = _count(state, place["blocks"]) - 1
    found = state.get(f"{place['blocks']}.{last}.{place['rest']}", weight)
    found = (found if found.shape == weight.shape else weight).clone()
    if place["rest"].startswith(("conv2.", "conv_shortcut.", "proj_out.")):
        found.zero_()
    if place["rest"] == "conv_shortcut.weight":  # what comes from below, and not the skip
        found[:, : len(weight), 0, 0] = torch.eye(len(weight))
    return found


def unet_of(state: dict[str, torch.Tensor]) -> UNet2DConditionModel:
    """The UNet that these weights are of."""
    unet = build_unet(layers=layers_of(state))
    unet.load_state_dict(state)
    return unet


def layers_of(state: dict[str, torch.Tensor]) -> tuple[int, ...]:
    """The residual blocks of each resolution that a UNet has."""
    return tuple(_count(state, f"down_blocks.{level}.resnets") for level in range(len(WIDTHS)))


def _count(state: dict[str, torch.Tensor], blocks: str) -> int:
    """How many blocks there are."""
    return len({name.split(".")[3] for name in state if name.startswith(blocks + ".")})


def build_scheduler() -> DDIMScheduler:
    """The scheduler that the pipeline ships with."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, steps_offset=1, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
