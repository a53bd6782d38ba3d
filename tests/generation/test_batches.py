"""Pictures of a batch are those that `generate` makes one by one, in families whose pipelines want
arguments of their own.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
from helpers.batches import concepts_of
from helpers.tiny_families import TINY

from svfit_diffusion.generation import generate, generate_batch
from svfit_diffusion.generation.sampling import parameters
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pool import ConceptPool


@pytest.mark.parametrize("name", ["sd", "flux2-klein", "qwen-image", "pixart-sigma"])
@pytest.mark.parametrize("negative", ["", "sks mug"])
def test_each_is_the_picture_that_generate_makes(name, negative):
    if negative and name == "flux2-klein":
        pytest.skip("it takes no negative prompt")
    base = TINY[name]()
    base.set_progress_bar_config(disable=True)
    base.vae.decoder.conv_out.weight.data *= 30  # a tiny VAE's pictures are grey
    concepts, pool, wanted = concepts_of(base), ConceptPool(copy.deepcopy(base)), []
    for seed, used in enumerate(({"rex": 0.7}, {"mug": 1.0}, {})):
        for key in used:
            pool.add(concepts[key], key)
        given = {"steps": 2, "guidance": 3.0, "width": 32, "height": 32}
        made = parameters(base, "a sks dog", seed, negative_prompt=negative, **given)
        wanted.append(replace(made, concepts=tuple(used.items())))
    pictures = generate_batch(pool, wanted)
    plain = generate_batch(pool, [replace(one, concepts=()) for one in wanted])
    for i, one in enumerate(wanted):
        pipe = copy.deepcopy(base)
        for key, strength in one.concepts:
            load_concept(pipe, concepts[key], strength, name=key)
        alone, _ = next(generate(pipe, "a sks dog", 1, i, negative_prompt=negative, **given))
        assert off(pictures[i], alone) <= 2
        assert off(plain[i], alone) > 4 or not one.concepts


def off(a, b):
    """The largest difference of two pictures, of 255."""
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())
