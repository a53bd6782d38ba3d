"""Freeze a VAE that was trained on, its latents turned to those that a UNet has learned.

The encoder's latents are whitened and turned to lie as near as they can to the latents of the VAE
before (orthogonal Procrustes), with their covariance; directions of less variance than LEAST are
given that much, as a UNet, whose noise is the same in all directions, cannot see them otherwise.
The map is folded into the 1 x 1 convolutions, so pictures stay as they are.
Reads `vae/last.pt`, writes `vae/final.pt`; the VAE before is the shipped one. From here on the
encoder never changes.
Run: python recipes/toybox/align.py
"""

from __future__ import annotations

import numpy as np
import torch
from common import EXPORT
from diffusers import AutoencoderKL
from freeze_vae import latents
from vae_model import psnr, trained_vae, write_final
from world import World

LEAST = 0.4  # variance of a direction, at least; a channel's is 1
PICTURES = 384


def power(matrix: torch.Tensor, exponent: float) -> torch.Tensor:
    """A power of a symmetric positive matrix."""
    values, axes = torch.linalg.eigh(matrix)
    return axes @ torch.diag(values**exponent) @ axes.T


def turn(new: torch.Tensor, old: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A (channels, channels) and b: A z + b lies near old for z of new; both (n, channels)."""
    spread_new, spread_old = torch.cov(new.T), torch.cov(old.T)
    values, axes = torch.linalg.eigh(spread_old)
    wanted = axes @ torch.diag(values.clamp_min(LEAST)) @ axes.T
    white_new = (new - new.mean(0)) @ power(spread_new, -0.5)
    white_old = (old - old.mean(0)) @ power(spread_old, -0.5)
    left, agreement, right = torch.linalg.svd(white_new.T @ white_old / len(new))
    print("canonical correlations", [round(float(v), 3) for v in agreement])
    found = power(spread_new, -0.5) @ left @ right @ power(wanted, 0.5)
    return found.T, old.mean(0) - new.mean(0) @ found


@torch.no_grad()
def fold(vae, a: torch.Tensor, b: torch.Tensor) -> None:
    """Put z' = A z + b behind the encoder and its inverse before the decoder, in place."""
    count, before, after = len(b), vae.quant_conv, vae.post_quant_conv
    inverse = torch.linalg.inv(a)
    weight = after.weight[:, :, 0, 0].double() @ inverse
    after.bias -= (weight @ b).float()
    after.weight.copy_(weight[:, :, None, None])
    before.weight[:count] = torch.einsum("ij,jkyx->ikyx", a, before.weight[:count].double()).float()
    before.bias[:count] = (a @ before.bias[:count].double() + b).float()


def columns(z: torch.Tensor) -> torch.Tensor:
    """(batch, channels, rows, columns) -> (batch x rows x columns, channels), float64."""
    return z.movedim(1, -1).flatten(0, -2).double()


def main() -> None:
    """Turn, verify and write."""
    vae, state = trained_vae()
    before = AutoencoderKL.from_pretrained(EXPORT / "vae").float()
    rng, world = np.random.default_rng(77), World()
    pictures = np.stack([world.sample(rng, 0.6).picture for _ in range(PICTURES)])
    old = columns(latents(before, pictures))
    quality = psnr(vae, pictures[:48])
    fold(vae, *turn(columns(latents(vae, pictures)), old))
    new = columns(latents(vae, pictures))
    difference = (new - old).square().mean() / (old - old.mean(0)).square().mean()
    print(f"difference to the latents of before, of their variance: {difference:.4f}")
    print("channel deviations", [round(float(v), 3) for v in new.std(0)])
    print("variances of directions", [
        round(float(v), 4) for v in torch.linalg.eigvalsh(torch.cov(new.T))
    ])  # fmt: skip
    folded = psnr(vae, pictures[:48])
    print(f"PSNR {quality.mean():.2f} dB, folded {folded.mean():.2f}, step {state['step']}")
    write_final(vae, state)


if __name__ == "__main__":
    main()
