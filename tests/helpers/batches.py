"""Concepts for batches, and the oracle of a picture of a batch: a pipeline of its own.

Batched products add up in another order, which changes latents by up to TOLERANCE of their largest
number.
"""

import copy
from dataclasses import replace

import numpy as np
import torch

from helpers.tiny_families import all_targets
from helpers.tiny_pipelines import make_concept
from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pipeline.trigger import output_width

TOLERANCE = 1e-5
PROMPTS = ["a photo of sks dog", "sks mug, sks", "a photo of sks dog", "a beach"]
BATCH = [{"rex": 0.7}, {"mug": 1.0}, {}, {"rex": 0.3, "zwx": -0.5}]
FAMILIES = ["sd", "sdxl", "sd3", "flux", "flux2-klein", "flux2", "z-image", "qwen-image", "chroma",
            "pixart-sigma", "lumina2", "sana", "auraflow"]  # fmt: skip
NEGATIVE = ["", "sks dog", "sks", "zwx"]


def concepts_of(pipe):
    """rex and mug, both called by `sks`, of different ranks, and zwx of some projections only."""
    family = recognise(pipe)
    every, part = all_targets(pipe), {family.denoiser: "self"}
    outputs = family.outputs(pipe)
    widths = {w: output_width(getattr(pipe, w), output) for w, output in outputs.items()}
    for word in [encoder.model for encoder in family.encoders]:
        widths[word] = getattr(pipe, word).config.hidden_size

    def made(rank, seed, targets, token):
        found = make_concept(pipe, rank, seed, 0.8, targets, token, trigger=False)
        random = np.random.default_rng(seed)
        shape = {w: (1 + seed % 2, width) for w, width in sorted(widths.items())}
        size = {w: 0.3 if w in outputs else 0.1 for w in shape}
        rows = [
            size[w] * random.standard_normal(tokens * width) for w, (tokens, width) in shape.items()
        ]
        return replace(
            found,
            trigger_rows=np.concatenate(rows).astype(np.float16),
            trigger_shape=shape,
            outputs={part: output.layers for part, output in outputs.items()},
        )

    return {
        "rex": made(4, 1, every, "sks"),
        "mug": made(2, 2, every, "sks"),
        "zwx": made(3, 3, part, "zwx"),
    }


def call(pipe, prompt, seeds, negative=None, **options):
    """Latents [n, ...] of prompts with these seeds."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    settings = {"num_inference_steps": 2, "output_type": "latent", "height": 32, "width": 32}
    if negative is not None:
        settings["negative_prompt"] = negative if isinstance(negative, str) else list(negative)
    prompt = list(prompt)  # Z-Image's pipeline writes into both
    made = pipe(prompt=prompt, generator=generators, **settings | options).images
    return made if torch.is_tensor(made) else torch.stack(list(made))


def alone(base, concepts, row, prompt, seed, **options):
    """The picture of a prompt with the concepts of a row, on a pipeline of its own."""
    pipe = copy.deepcopy(base)
    for name, strength in row.items():
        load_concept(pipe, concepts[name], strength, name=name)
    return call(pipe, [prompt], [seed], **options)[0]


def close(a, b):
    """The largest difference, in units of the largest number."""
    return float((a - b).abs().max() / b.abs().max())
