"""merging.py: what is merged can be taken out to the bit, and identity never comes from it."""

import pytest
import torch
from helpers.tiny_pipelines import make_concept, make_pipeline
from peft import get_peft_model
from torch import nn

from svfit_diffusion.adapter.attention import find_projections
from svfit_diffusion.adapter.cache import fingerprint
from svfit_diffusion.adapter.tuner import SVFitConfig, layers
from svfit_diffusion.pipeline.fusing import fuse_concepts, unfuse_concepts
from svfit_diffusion.pipeline.loading import load_concept, remove_concept


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


def test_the_fingerprint_is_the_base_s_while_a_concept_is_fused():
    pipe = make_pipeline().to(torch.float16)
    names = find_projections(pipe.unet)
    before = fingerprint(pipe.unet, names, "float16")
    load_concept(pipe, make_concept(pipe), name="rex")
    fuse_concepts(pipe)
    assert fingerprint(pipe.unet, names, "float16") == before


@pytest.fixture
def model():
    """Two Linears in float16 with two SVFit adapters."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 8)).half()
    config = {"r": 4, "target_modules": ["0", "1"], "init_weights": False}
    tuned = get_peft_model(made, SVFitConfig(**config), "a")
    tuned.add_adapter("b", SVFitConfig(**config))
    tuned.base_model.set_adapter(["a", "b"])
    return tuned


def dense(layer, weight, adapters):
    edits = sum(layer.get_delta_weight(name) for name in adapters)
    return (weight.float() + edits).half()


def test_merged_one_after_the_other_is_merged_together(model):
    """Rounded once: the sum of both edits, not the rounded sum of the first and the second."""
    before = {name: layer.get_base_weight().clone() for name, layer in layers(model).items()}
    model.merge_adapter(["a"])
    model.merge_adapter(["b"])
    for name, layer in layers(model).items():
        assert torch.equal(layer.get_base_weight(), dense(layer, before[name], "ab"))
        assert layer.kept_weight is not None and layer.merged_strength("a") == 1
    model.unmerge_adapter()
    for name, layer in layers(model).items():
        assert torch.equal(layer.get_base_weight(), before[name]) and layer.kept_weight is None


def test_with_one_merged_the_other_still_acts(model):
    x = torch.randn(3, 12).half()
    wanted = model(x)
    model.merge_adapter(["a"])
    assert torch.allclose(model(x), wanted, atol=5e-3)
    model.base_model.set_adapter("a")
    assert not torch.allclose(model(x), wanted, atol=5e-3)


def test_what_others_add_to_a_merged_weight_stays(model):
    (name, layer), *_ = layers(model).items()
    before = layer.get_base_weight().clone()
    model.merge_adapter()
    layer.get_base_layer().weight.data += 1
    model.unmerge_adapter()
    assert torch.allclose(layer.get_base_weight().float(), before.float() + 1, atol=2e-3), name


def test_a_merged_adapter_that_is_deleted_stays_in_the_weight(model):
    """As peft's own do. Where another is merged beside it, only that one comes out again."""
    (_, layer), *_ = layers(model).items()
    before = layer.get_base_weight().clone()
    model.merge_adapter()
    wanted = dense(layer, before, "a")
    layer.delete_adapter("a")
    assert layer.merged_adapters == ["b"]
    layer.unmerge()
    assert torch.equal(layer.get_base_weight(), wanted)


def test_a_strength_that_changes_while_merged_takes_the_edit_out_first(model):
    (_, layer), *_ = layers(model).items()
    before = layer.get_base_weight().clone()
    layer.merge()
    with pytest.warns(UserWarning, match="a, b is fused into the weights, so it is unfused"):
        layer.set_scale("a", 0.5)
    assert torch.equal(layer.get_base_weight(), before) and layer.strength("a") == 0.5


def test_a_cast_while_merged_comes_back_as_the_cast_base(model):
    (_, layer), *_ = layers(model).items()
    before = layer.get_base_weight().clone()
    layer.merge()
    layer.base_layer.float()
    layer.unmerge()
    assert torch.equal(layer.get_base_weight(), before.float())
