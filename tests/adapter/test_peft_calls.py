"""What peft's users do with an adapter, done with ours. Oracles: dense edits, and peft's LoRA."""

import pytest
import torch
from helpers.tiny_pipelines import load, make_concept
from peft import LoraConfig, get_peft_model
from torch import nn

from svfit_diffusion.adapter.tuner import SVFitConfig, layers
from svfit_diffusion.pipeline.loading import load_concept, remove_concept


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4))


def tuned(**options):
    return get_peft_model(network(), SVFitConfig(**{"r": 2, "init_weights": False} | options))


def test_all_linear_is_every_linear_as_for_lora():
    ours, theirs = tuned(target_modules="all-linear"), network()
    lora = get_peft_model(theirs, LoraConfig(target_modules="all-linear"))
    assert ours.base_model.targeted_module_names == lora.base_model.targeted_module_names
    assert set(layers(ours.base_model.model)) == {"0", "1", "2"}


def test_all_linear_beside_a_lora_is_the_same_linears():
    model = network()
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["0", "1"])).base_model.model
    made = get_peft_model(model, SVFitConfig(r=2, target_modules="all-linear"), "b")
    assert {"0", "1"} <= set(layers(made.base_model.model))
    assert not any("lora" in name for name in layers(made.base_model.model))


@pytest.mark.parametrize(
    ("pattern", "ranks"),
    [
        ({"attn1.to_q": 5}, {"attn1.to_q": 5}),
        ({r".*attn1\.to_[qk]": 5}, {"attn1.to_q": 5, "attn1.to_k": 5}),
        ({"to_out.0": "full", "attn2.to_k": 1}, {"to_out.0": 32, "attn2.to_k": 1}),
    ],
)
def test_ranks_by_ending_or_regular_expression(pipe, pattern, ranks):
    pipe.unet.add_adapter(SVFitConfig(r=3, rank_pattern=pattern))
    for name, layer in layers(pipe.unet).items():
        wanted = next((rank for ending, rank in ranks.items() if name.endswith(ending)), 3)
        most = min(layer.in_features, layer.out_features)
        assert layer.svfit_rank["default"] == (most if wanted == 32 else wanted), name


def test_a_mixed_batch_gives_each_row_its_adapter():
    model = tuned(target_modules=["0", "1", "2"])
    model.add_adapter("b", SVFitConfig(r=3, target_modules=["0", "2"], init_weights=False))
    model.eval()
    x, names = torch.randn(4, 6), ["b", "default", "__base__", "b"]
    mixed = model(x, adapter_names=names)
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                wanted = model(x[[row]])
        else:
            model.set_adapter(name)
            wanted = model(x[[row]])
        assert torch.allclose(mixed[[row]], wanted, atol=1e-6)
    model.set_adapter("default")
    assert torch.allclose(model(x, adapter_names=["b"] * 4)[0], mixed[0], atol=1e-6)


def test_a_mixed_batch_that_makes_no_sense_is_refused():
    model, x = tuned(target_modules=["0"]).eval(), torch.randn(2, 6)
    with pytest.raises(ValueError, match="'nobody' is none; known are __base__, default"):
        model(x, adapter_names=["nobody", "default"])
    with pytest.raises(ValueError, match="names 1 adapters for a batch of 2"):
        model(x, adapter_names=["default"])
    with pytest.raises(ValueError, match="training mode"):
        model.train()(x, adapter_names=["default"] * 2)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="are merged"):
        model(x, adapter_names=["default"] * 2)


@pytest.mark.parametrize("inference", [True, False])
def test_disabling_for_a_while_leaves_what_is_trained(inference):
    model = tuned(target_modules=["0"], inference_mode=inference)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    assert any(before.values()) != inference
    with model.disable_adapter():
        assert not any(p.requires_grad for p in model.parameters())
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}


def test_removal_leaves_the_base_as_trainable_as_it_was(pipe, base_folder):
    concept = make_concept(load(base_folder))
    pipe.text_encoder.requires_grad_(False)
    parts = (pipe.unet, pipe.text_encoder)
    before = [[p.requires_grad for p in part.parameters()] for part in parts]
    assert all(before[0]) and not any(before[1])
    for name in ("rex", "mug"):
        load_concept(pipe, concept, name=name, token=name)
        assert not any(p.requires_grad for part in parts for p in part.parameters())
    for name in ("rex", "mug"):
        remove_concept(pipe, name)
    assert before == [[p.requires_grad for p in part.parameters()] for part in parts]


def test_a_scale_is_put_back_to_the_number_it_was():
    (layer,) = layers(tuned(target_modules=["0"])).values()
    layer.set_scale("default", 0.7)
    for scale in (0.3, 0.0, 3.7):
        layer.scale_layer(scale)
        assert layer.svfit_scaling["default"] == 0.7 * scale
        if scale:
            layer.unscale_layer(scale)
        else:
            layer.set_scale("default", 1.0)  # diffusers' way
        assert layer.svfit_scaling["default"] == 0.7
    layer.scale_layer(0.0)
    layer.set_adapter("default")
    layer.set_scale("default", 1.0)  # a user's
    assert layer.svfit_scaling["default"] == 1.0
