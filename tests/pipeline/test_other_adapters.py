"""Concepts and peft's LoRA layers on the same projections, in either order.

The oracle is the dense edit: the LoRA's product and the concept's edit added to the base's weights.
"""

import itertools

import pytest
import torch
from helpers.tiny_pipelines import load, make_concept, picture
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

from svfit_diffusion.adapter.tuner import layers
from svfit_diffusion.pipeline.attached import loaded_concepts
from svfit_diffusion.pipeline.fusing import fuse_concepts, unfuse_concepts
from svfit_diffusion.pipeline.loading import (
    load_concept,
    remove_concept,
    set_concepts,
    swap_concept,
)

RANK = 2


@pytest.fixture
def lora(pipe):
    """A LoRA's state dict, as diffusers reads it from files, for some projections and others."""
    random, state = torch.Generator().manual_seed(3), {}
    for name, module in pipe.unet.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("to_q", "to_v", "ff.net.2")):
            shapes = {"A": (RANK, module.in_features), "B": (module.out_features, RANK)}
            for key, shape in shapes.items():
                value = 0.2 * torch.randn(shape, generator=random)
                state[f"unet.{name}.lora_{key}.weight"] = value
    return state


def add_densely(pipe, lora, strength):
    """Write the LoRA into the weights."""
    for key in [key for key in lora if "lora_A" in key]:
        down, up = lora[key], lora[key.replace("lora_A", "lora_B")]
        name = key.removeprefix("unet.").removesuffix(".lora_A.weight")
        layer = pipe.unet.get_submodule(name)
        layer = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
        layer.weight.data += strength * up @ down


def near(a, b, most=2e-5):
    return ((a - b).norm() / b.norm()).item() < most


def wanted(base_folder, concept, strength, lora, weight):
    """The picture of the oracle."""
    pipe = load(base_folder)
    if strength:
        load_concept(pipe, concept, strength=strength)
    add_densely(pipe, lora, weight)
    return picture(pipe)


def put(pipe, concept, lora, first, strength=1.0):
    steps = {
        "lora": lambda: pipe.load_lora_weights(dict(lora), adapter_name="style"),
        "concept": lambda: load_concept(pipe, concept, name="rex", strength=strength),
    }
    for step in (first, *(set(steps) - {first})):
        steps[step]()


@pytest.mark.parametrize("first", ["lora", "concept"])
def test_both_act_in_either_order_at_any_strengths(pipe, base_folder, lora, first):
    concept = make_concept(pipe)
    put(pipe, concept, lora, first, 0.7)
    assert near(picture(pipe), wanted(base_folder, concept, 0.7, lora, 1.0))
    pipe.set_adapters(["rex", "style"], [0.4, 0.6])
    assert near(picture(pipe), wanted(base_folder, concept, 0.4, lora, 0.6))
    assert loaded_concepts(pipe)["rex"].strength == 0.4
    set_concepts(pipe, {"rex": 0.9})  # the LoRA stays as it is
    assert near(picture(pipe), wanted(base_folder, concept, 0.9, lora, 0.6))
    set_concepts(pipe, {})
    assert near(picture(pipe), wanted(base_folder, concept, 0, lora, 0.6))
    set_concepts(pipe, {"rex": 1})
    other = make_concept(load(base_folder), seed=9)
    swap_concept(pipe, "rex", other)
    assert near(picture(pipe), wanted(base_folder, other, 1.0, lora, 0.6))


@pytest.mark.parametrize("first", ["lora", "concept"])
def test_fusing_one_leaves_the_other_right(pipe, base_folder, lora, first):
    concept = make_concept(pipe)
    put(pipe, concept, lora, first)
    both = wanted(base_folder, concept, 1.0, lora, 1.0)
    plain = {k: v.clone() for k, v in load(base_folder).unet.state_dict().items()}
    fuse_concepts(pipe)
    assert near(picture(pipe), both)
    pipe.fuse_lora(components=["unet"], adapter_names=["style"])
    assert near(picture(pipe), both)
    unfuse_concepts(pipe)  # what the LoRA put into the weight stays there
    assert near(picture(pipe), both)
    pipe.unfuse_lora(components=["unet"])
    assert near(picture(pipe), both)
    for name, layer in layers(pipe.unet).items():
        assert torch.allclose(layer.get_base_weight(), plain[f"{name}.weight"], atol=1e-6)
    pipe.fuse_lora(components=["unet"], adapter_names=["style"])
    remove_concept(pipe, "rex")
    assert near(picture(pipe), wanted(base_folder, concept, 0, lora, 1.0))


@pytest.mark.parametrize(("first", "removed"), itertools.product(["lora", "concept"], repeat=2))
def test_removing_one_leaves_the_other(pipe, base_folder, lora, first, removed):
    concept = make_concept(pipe)
    put(pipe, concept, lora, first)
    if removed == "lora":
        pipe.delete_adapters("style")
        assert near(picture(pipe), wanted(base_folder, concept, 1.0, lora, 0.0))
        assert loaded_concepts(pipe)["rex"].strength == 1
    else:
        remove_concept(pipe, "rex")
        assert near(picture(pipe), wanted(base_folder, concept, 0, lora, 1.0))
        assert pipe.get_list_adapters() == {"unet": ["style"]}
    pipe.unload_lora_weights()
    assert torch.equal(picture(pipe), picture(load(base_folder)))


def test_an_adapter_added_for_training_leaves_the_concept_on(pipe, base_folder):
    concept = make_concept(pipe)
    load_concept(pipe, concept, name="rex", strength=0.6)
    before = picture(pipe)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0"]), "mine")
    assert torch.equal(picture(pipe), before)  # a new LoRA is nought
    trained = [name for name, p in pipe.unet.named_parameters() if p.requires_grad]
    assert trained and all(".mine." in name for name in trained)
    assert set(pipe.unet.active_adapters()) == {"mine", "rex"}
    pipe.unet.set_adapter("mine")  # the user's own wish
    assert loaded_concepts(pipe)["rex"].strengths == {"unet": 0.0, "text_encoder": 0.6}
    assert len(get_peft_model_state_dict(pipe.unet, adapter_name="mine")) == 2 * 16


def test_the_last_concept_removed_leaves_the_parameters_as_trainable_as_they_were(pipe):
    pipe.unet.conv_in.requires_grad_(False)
    before = {part: trainable(pipe, part) for part in ("unet", "text_encoder")}
    assert before["unet"] and before["text_encoder"]
    load_concept(pipe, make_concept(pipe), name="rex")  # has deltas and a row in the text encoder
    assert not trainable(pipe, "text_encoder")
    load_concept(pipe, make_concept(pipe, seed=2, token="zwx"), name="two")
    remove_concept(pipe, "rex")
    assert not trainable(pipe, "unet")
    remove_concept(pipe, "two")
    assert {part: trainable(pipe, part) for part in before} == before


def trainable(pipe, part: str) -> list[str]:
    return [name for name, p in getattr(pipe, part).named_parameters() if p.requires_grad]


def test_two_loras_and_two_concepts_in_turn(pipe, base_folder, lora):
    one, two = make_concept(pipe, seed=1), make_concept(pipe, seed=2, token="zwx")
    load_concept(pipe, one, name="rex", strength=0.5)
    pipe.load_lora_weights(dict(lora), adapter_name="style")
    load_concept(pipe, two, name="mug", strength=0.6)
    pipe.load_lora_weights({k: -v for k, v in lora.items()}, adapter_name="other")
    pipe.set_adapters(["rex", "mug", "style", "other"], [0.5, 0.6, 0.7, 0.1])
    oracle = load(base_folder)
    load_concept(oracle, one, strength=0.5)
    load_concept(oracle, two, name="mug", strength=0.6)
    add_densely(oracle, lora, 0.7)
    for key in [key for key in lora if "lora_A" in key]:
        lora[key] = -lora[key]
    add_densely(oracle, {k: -v if "lora_B" in k else v for k, v in lora.items()}, 0.1)
    assert near(picture(pipe), picture(oracle))
    saved = get_peft_model_state_dict(pipe.unet, adapter_name="style")
    assert {f"unet.{key}" for key in saved} == set(lora)


def test_a_lora_without_a_name_and_moves_of_single_adapters(pipe, base_folder, lora):
    concept = make_concept(pipe)
    load_concept(pipe, concept, name="rex")
    pipe.load_lora_weights(dict(lora))
    assert "default_0" in pipe.get_list_adapters()["unet"]
    assert near(picture(pipe), wanted(base_folder, concept, 1.0, lora, 1.0))
    pipe.set_lora_device(["default_0", "rex"], "meta")
    layer = next(iter(layers(pipe.unet).values()))
    assert layer.svfit_delta["rex"].is_meta and next(iter(layer.svfit_U.values())).is_meta
    assert not layer.base_layer.weight.is_meta


def text_lora(pipe):
    """A LoRA for the text encoder too, as diffusers reads it from files."""
    random, state = torch.Generator().manual_seed(4), {}
    for name, module in pipe.text_encoder.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            shapes = {"A": (RANK, module.in_features), "B": (module.out_features, RANK)}
            for key, shape in shapes.items():
                value = 0.3 * torch.randn(shape, generator=random)
                state[f"text_encoder.{name}.lora_{key}.weight"] = value
    return state


@pytest.mark.parametrize("first", ["lora", "concept"])
def test_a_lora_of_the_text_encoder_leaves_word_and_deltas(pipe, base_folder, lora, first):
    concept, state = make_concept(pipe), text_lora(pipe)
    put(pipe, concept, lora | state, first, 0.6)
    oracle = load(base_folder)
    load_concept(oracle, concept, strength=0.6)
    add_densely(oracle, lora, 1.0)
    for key in [key for key in state if "lora_A" in key]:
        layer = oracle.text_encoder.get_submodule(
            key[len("text_encoder.") : -len(".lora_A.weight")]
        )
        layer.get_base_layer().weight.data += state[key.replace("lora_A", "lora_B")] @ state[key]
    assert near(picture(pipe), picture(oracle))


def test_a_fused_lora_on_a_base_without_files_is_named(pipe, lora):
    """There the base is known by its weights, in which the LoRA now is."""
    concept = make_concept(pipe)
    pipe.unet.register_to_config(_name_or_path="")
    pipe.load_lora_weights(dict(lora), adapter_name="style")
    pipe.fuse_lora(components=["unet"])
    with pytest.raises(ValueError, match="'style' is fused into the unet.*call unfuse_lora"):
        load_concept(pipe, concept)
