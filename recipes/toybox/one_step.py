"""How well a UNet predicts known objects from noise in one step, by timestep.

Reference renders of every third training object (92 px, centred, on white), each with its caption
and the same noise: the mean squared error of the predicted latents as a share of their variance,
and the PSNR of the decoded prediction.
Run: python recipes/toybox/one_step.py --checkpoint stable.pt   (without: the shipped model)
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from check import open_pipeline
from objects import TRAIN, with_article
from vae_model import to_tensor
from world import Placed, Sample, World

TIMES = (999, 700, 500, 300, 200, 80, 40)


@torch.inference_mode()
def errors(pipe, items: tuple) -> dict[int, tuple[float, float]]:
    """Timestep -> error of the latents over their variance, PSNR of the picture in dB."""
    world = World(items)
    pictures = [
        world.render(np.random.default_rng(0), Sample("plain", ("white",), "photo", [thing]))
        for thing in (Placed(item, 92, 64, 64) for item in items)
    ]
    x = to_tensor(np.stack(pictures))
    latents = pipe.vae.encode(x).latent_dist.mode()
    captions = [f"a photo of {with_article(item.name)} on a white background" for item in items]
    ids = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    words = pipe.text_encoder(ids.input_ids).last_hidden_state
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    found = {}
    for time in TIMES:
        share = pipe.scheduler.alphas_cumprod[time]
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        velocity = pipe.unet(noisy, time, words).sample
        predicted = share.sqrt() * noisy - (1 - share).sqrt() * velocity
        error = (predicted - latents).square().mean() / latents.var()
        wrong = ((pipe.vae.decode(predicted).sample.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
        found[time] = float(error), float(-10 * wrong.log10().mean())
    return found


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    pipe, facts = open_pipeline(parser.parse_args().checkpoint)
    print(facts)
    for time, (error, quality) in errors(pipe, TRAIN[::3]).items():
        print(f"t={time}: error {error:.4f} of the variance, {quality:.2f} dB")


if __name__ == "__main__":
    main()
