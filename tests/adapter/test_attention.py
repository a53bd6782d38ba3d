"""attention.py: what the patch finds, and that it leaves no trace."""

import re

import pytest
import torch
from diffusers import AutoencoderKL
from helpers.tiny_pipelines import picture
from peft import LoraConfig
from torch import nn

from benchmarks.families import table
from svfit_diffusion.adapter.attention import (
    find_projections,
    layout,
    patch_attention,
    unpatch_attention,
    values_and_outputs,
)
from svfit_diffusion.adapter.tuner import SVFitConfig
from svfit_diffusion.families import skeleton


def test_all_of_a_unet_is_found_and_nothing_else(pipe):
    """Oracle: every Linear below a module that holds an attention processor."""
    expected = {
        f"{name}.{child}"
        for name, module in pipe.unet.named_modules()
        if hasattr(module, "processor")
        for child, linear in module.named_modules()
        if isinstance(linear, nn.Linear)
    }
    found = find_projections(pipe.unet)
    assert set(found) == expected and list(found) == sorted(found)
    assert all((kind == "self") == (".attn1." in name) for name, kind in found.items())


@pytest.mark.parametrize("attention", ["self", "cross", "both"])
def test_patch_says_what_it_did(pipe, attention):
    patched = patch_attention(pipe.unet, SVFitConfig(r=3), attention=attention)
    blocks = 4  # transformer blocks of the tiny UNet
    assert patched.self_attention == (0 if attention == "cross" else 4 * blocks)
    assert patched.cross_attention == (0 if attention == "self" else 4 * blocks)
    assert patched.values == 3 * len(patched.names)
    trained = sum(p.numel() for p in pipe.unet.parameters() if p.requires_grad)
    assert trained == patched.values
    assert f"{len(patched.names)} projections" in str(patched) and "UNet2D" in str(patched)


def test_text_encoder(pipe):
    patched = patch_attention(pipe.text_encoder, SVFitConfig(r=3))
    layers = pipe.text_encoder.config.num_hidden_layers
    assert (patched.self_attention, patched.cross_attention) == (4 * layers, 0)


def test_a_model_without_attention_is_refused(pipe):
    with pytest.raises(ValueError, match="Sequential has no attention projections"):
        patch_attention(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="no cross-attention"):
        patch_attention(pipe.text_encoder, attention="cross")
    with pytest.raises(ValueError, match="one of both, self, cross"):
        find_projections(pipe.unet, "all")
    with pytest.raises(ValueError, match="already has an adapter named 'a'"):
        for _ in range(2):
            patch_attention(pipe.unet, SVFitConfig(r=1), "a")


def test_a_vae_has_attention_too():
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    assert patch_attention(vae, SVFitConfig(r=2)).self_attention == 8


def test_unpatch_leaves_no_trace(pipe):
    names = [name for name, _ in pipe.unet.named_modules()]
    before = picture(pipe)
    for adapter in "ab":
        patch_attention(pipe.unet, SVFitConfig(r=2), adapter)
    unpatch_attention(pipe.unet, "a")
    assert pipe.unet.active_adapters() == ["b"]
    unpatch_attention(pipe.unet, "b")
    assert [name for name, _ in pipe.unet.named_modules()] == names
    assert torch.equal(picture(pipe), before)
    pipe.unet.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))  # as on a fresh model


def test_layout_has_canonical_names_in_order(pipe):
    models = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    plan = layout(models, {"unet": "cross", "text_encoder": "self"})
    names = [p.name for p in plan]
    assert names == sorted(names)
    assert names[0] == "text_encoder.text_model.encoder.layers.0.self_attn.k_proj"
    assert names[-1].startswith("unet.") and ".attn2." in names[-1]
    for p in plan:
        weight = models[p.part].get_submodule(p.local).weight
        assert weight.shape == (p.out_features, p.in_features)


@pytest.mark.parametrize(
    "base",
    [
        *("Stable Diffusion 1.5", "SD 3.5 medium", "FLUX.1 dev", "FLUX.2 klein 4B"),
        *("HiDream-I1", "AuraFlow 0.3"),
    ],
)
def test_what_makes_no_values_or_outputs_makes_queries_or_keys(base, tmp_path):
    """With the true configurations, whose names differ."""
    _, models = skeleton(table.write(base, tmp_path))
    for model in models.values():
        others = set(find_projections(model)) - set(values_and_outputs(model, 4))
        queries_and_keys = r"(.+\.)(to_|add_)?[qk](_proj|_t)?"
        assert others and all(re.fullmatch(queries_and_keys, name) for name in others)
        held = {name for name in find_projections(model) if re.fullmatch(queries_and_keys, name)}
        assert held == others
