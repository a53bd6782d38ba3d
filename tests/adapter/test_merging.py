"""merging.py: what is merged can be taken out to the bit, and identity never comes from it."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.original_layout import original_checkpoint
from helpers.tiny_pipelines import load, make_concept, make_pipeline, picture
from peft import LoraConfig

from svfit_diffusion.adapter.cache import fingerprint
from svfit_diffusion.adapter.tuner import SVFitConfig, layers
from svfit_diffusion.pipeline.fusing import fuse_concepts, unfuse_concepts
from svfit_diffusion.pipeline.loading import load_concept, remove_concept, set_concepts


def weights(model):
    """Name -> a copy of each weight, by the names of the base."""
    held = model.state_dict()
    names = (name for name in held if "svfit" not in name)
    return {name.replace(".base_layer", ""): held[name].clone() for name in names}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_unfusing_restores_the_weights_to_the_bit(dtype):
    """Of a pipeline that was never on a disk; then another concept loads, as the base is known."""
    pipe = make_pipeline().to(torch.float16).to(dtype)
    pipe.unet.register_to_config(_name_or_path="")
    one, two = make_concept(pipe, seed=1), make_concept(pipe, seed=2, token="zwx")
    before = weights(pipe.unet)
    load_concept(pipe, one, name="rex", strength=0.8)
    fuse_concepts(pipe)
    fused = weights(pipe.unet)
    changed = sum((fused[key] != before[key]).sum().item() for key in before)
    assert changed > 1000
    load_concept(pipe, two, name="mug", strength=0.5)  # unfuses
    assert same(weights(pipe.unet), before)
    fuse_concepts(pipe)
    unfuse_concepts(pipe)
    assert same(weights(pipe.unet), before)
    for name in ("rex", "mug"):
        remove_concept(pipe, name)
    assert same(weights(pipe.unet), before)
