"""Freeze the trained VAE: fold latent statistics into its 1 x 1 convolutions, write `final.pt`.

Each latent channel gets mean 0 and deviation 1 over the training world, so the scaling factor
is 1: mean' = (mean - m) / s before, z = s z' + m after. From here on the encoder never changes.
With `--as-they-are` the latents stay so: a VAE that was trained with `--keep`, for a UNet that
knows them.
Run: python recipes/toybox/freeze_vae.py
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from vae_model import psnr, to_tensor, trained_vae, write_final
from world import World


def fold(vae, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Standardise the latents of a VAE in place; mean, deviation: (channels,)."""
    count = len(mean)
    with torch.no_grad():
        before, after = vae.quant_conv, vae.post_quant_conv
        before.weight[:count] /= deviation[:, None, None, None]
        before.bias[:count] = (before.bias[:count] - mean) / deviation
        before.bias[count:] -= 2 * deviation.log()
        after.bias += after.weight[:, :, 0, 0] @ mean
        after.weight *= deviation[None, :, None, None]


def latents(vae, pictures: np.ndarray) -> torch.Tensor:
    """(batch, channels, side, side)."""
    with torch.inference_mode():
        return torch.cat([
            vae.encode(to_tensor(pictures[i : i + 32])).latent_dist.mode()
            for i in range(0, len(pictures), 32)
        ]).clone()  # fmt: skip


def main() -> None:
    """Fold, verify and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--as-they-are", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(2)
    vae, state = trained_vae()
    rng, world = np.random.default_rng(77), World()
    pictures = np.stack([world.sample(rng, 0.6).picture for _ in range(512)])
    raw = latents(vae, pictures)
    if not args.as_they_are:
        fold(vae, raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    folded = latents(vae, pictures)
    print("channel deviations before", [round(float(v), 2) for v in raw.std((0, 2, 3))])
    print("after", [round(float(v), 3) for v in folded.std((0, 2, 3))])
    quality = float(psnr(vae, pictures[:96]).mean())
    print(f"PSNR {quality:.2f} dB after step {state['step']}")
    write_final(vae, state)


if __name__ == "__main__":
    main()
