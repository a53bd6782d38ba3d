"""The VAE of Toybox: diffusers AutoencoderKL, 128 px, f = 8, 16 latent channels, no attention."""

from __future__ import annotations

from pathlib import Path

import torch
from common import LATENT_CHANNELS, RESOLUTION, save_checkpoint, sha256, work_dir
from diffusers import AutoencoderKL

WIDTHS = (16, 32, 64, 96)
FAINT = 0.1  # of a fresh weight: what reads a new latent channel


def build_vae(widths: tuple[int, ...] = WIDTHS, channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    """A fresh VAE of `channels` latent channels."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        force_upcast=False,
    )
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if name.endswith("conv2.weight"):
                weight.zero_()  # residual branches start silent
        vae.quant_conv.bias[channels:] -= 6  # and the latents start with little noise
    return vae.to(memory_format=torch.channels_last)


def widened(state: dict[str, torch.Tensor], vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """The weights of a narrower VAE, so repeated that a wider one computes the same.

    Every channel becomes several neighbours, which leaves the statistics of its group as they are;
    what reads it shares its weight out to them at random, so that they learn apart.
    """
    random, wide = torch.Generator().manual_seed(0), {}
    for name, place in vae.state_dict().items():
        weight = state[name].float()
        weight = weight.repeat_interleave(place.shape[0] // weight.shape[0], 0)
        if weight.ndim > 1 and (times := place.shape[1] // weight.shape[1]) > 1:
            shares = 0.6 + 0.8 * torch.rand(*weight.shape[:2], times, generator=random)
            shares = (shares / shares.sum(2, keepdim=True)).flatten(1)
            shares = shares.view(*shares.shape, *[1] * (weight.ndim - 2))
            weight = weight.repeat_interleave(times, 1) * shares
        if weight.shape != place.shape:
            raise ValueError(f"{name} cannot be widened to {tuple(place.shape)}.")
        wide[name] = weight
    return wide


def with_more_channels(state: dict[str, torch.Tensor], vae: AutoencoderKL) -> dict:
    """The weights of a VAE of fewer latent channels, in one of more that computes nearly the same.

    Old channels come first and are as they were; the new ones hardly reach the decoder yet.
    """
    grown = {name: weight.clone() for name, weight in vae.state_dict().items()}
    old, new = len(state["post_quant_conv.bias"]), vae.config.latent_channels
    means = torch.arange(old)
    moments = torch.cat([means, new + means])  # means and log variances of the old channels
    for name, weight in state.items():
        if grown[name].shape == weight.shape:
            grown[name] = weight.float()
        elif name.startswith(("quant_conv", "post_quant_conv")):
            rows = moments if name.startswith("quant") else means
            if weight.ndim == 1:
                grown[name][rows] = weight.float()
                continue
            grown[name] = torch.eye(len(grown[name]))[:, :, None, None]
            grown[name][rows[:, None], rows] = weight.float()
        elif name.startswith("encoder.conv_out"):
            grown[name][moments] = weight.float()
        else:  # decoder.conv_in
            grown[name] *= FAINT
            grown[name][:, means] = weight.float()
    return grown


def load_vae(path: Path | None = None) -> AutoencoderKL:
    """The frozen VAE of the work folder, or that of a path, of as many channels as it has."""
    path = path or work_dir() / "vae" / "final.pt"
    if not path.is_file():
        raise ValueError(f"There is no {path.name} yet; run train_vae.py, then freeze_vae.py.")
    state = torch.load(path, weights_only=True)["vae"]
    vae = build_vae(channels=len(state["post_quant_conv.bias"]))
    vae.load_state_dict(state)
    return vae.eval().requires_grad_(False)


def trained_vae() -> tuple[AutoencoderKL, dict]:
    """The averaged VAE of `vae/last.pt`, and the training's state."""
    state = torch.load(work_dir() / "vae" / "last.pt", weights_only=True)
    vae = build_vae()
    vae.load_state_dict(state["ema"])
    return vae, state


def write_final(vae: AutoencoderKL, state: dict) -> None:
    """Write `vae/final.pt`, which load_vae() reads."""
    path = work_dir() / "vae" / "final.pt"
    save_checkpoint(path, {
        "vae": vae.state_dict(), "step": state["step"], "seconds": state["seconds"],
    })  # fmt: skip
    print("final.pt", sha256(path))


def to_tensor(pictures) -> torch.Tensor:
    """uint8 (batch, side, side, 3) -> float (batch, 3, side, side) in [-1, 1], channels last."""
    return torch.as_tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(vae: AutoencoderKL, pictures) -> torch.Tensor:
    """Peak signal-to-noise ratio of each picture's reconstruction, in dB: (batch,)."""
    with torch.inference_mode():
        x = to_tensor(pictures)
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((x - y) / 2).square().mean((1, 2, 3))
    return -10 * error.log10()
