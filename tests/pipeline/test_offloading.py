"""Concepts on pipelines whose weights come and go, or are stored in eight bits.

With the CPU as both devices: what was not moved would still lie on the meta device.
"""

import pytest
import torch
from accelerate import cpu_offload
from helpers.tiny_pipelines import load, make_concept, picture

from svfit_diffusion.adapter.tuner import layers
from svfit_diffusion.pipeline.attached import loaded_concepts
from svfit_diffusion.pipeline.fusing import fuse_concepts, unfuse_concepts
from svfit_diffusion.pipeline.loading import (
    load_concept,
    remove_concept,
    set_concepts,
    swap_concept,
)
from svfit_diffusion.pipeline.offloading import offload


def sequential(pipe):
    """What enable_sequential_cpu_offload does; accelerate takes no `cpu:0`, as it passes on."""
    for model in (pipe.unet, pipe.text_encoder, pipe.vae):
        cpu_offload(model, torch.device("cpu"), offload_buffers=len(model._parameters) > 0)


def model(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def leaf_groups(pipe):
    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")


def block_groups(pipe):
    pipe.enable_group_offload(
        torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    )


def near(a, b):
    """Alike to rounding: a hooked Linear is called, where another's weight may be added to."""
    return ((a - b).norm() / b.norm()).item() < 1e-5


@pytest.fixture
def concepts(pipe):
    return make_concept(pipe, seed=1), make_concept(pipe, seed=2)


@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("kind", [sequential, model, leaf_groups, block_groups])
def test_every_call_on_an_offloaded_pipeline(pipe, base_folder, concepts, kind, early):
    """Oracle: the same calls on a pipeline that is not offloaded."""
    one, two = concepts
    plain, base = load(base_folder), picture(pipe)
    if early:
        kind(pipe)
    for held in (pipe, plain):
        load_concept(held, one, name="rex", strength=0.8)
    if not early:
        kind(pipe)
    assert near(picture(pipe), picture(plain))
    for held in (pipe, plain):
        set_concepts(held, {"rex": 0.5})
    assert near(picture(pipe), picture(plain))
    for held in (pipe, plain):
        swap_concept(held, "rex", two)
    assert near(picture(pipe), picture(plain))
    fuse_concepts(pipe)
    assert near(picture(pipe), picture(plain))
    unfuse_concepts(pipe)
    assert near(picture(pipe), picture(plain))
    remove_concept(pipe, "rex")
    assert torch.equal(picture(pipe), base)
    where = {p.device.type for p in pipe.unet.parameters()}
    assert where == ({"meta"} if kind is sequential else {"cpu"})


def test_nothing_of_a_concept_stays_behind(pipe, concepts):
    """Sequential offload leaves no weight in place, and takes deltas and rows along."""
    load_concept(pipe, concepts[0], name="rex")
    sequential(pipe)
    values = [layer.svfit_delta["rex"] for layer in layers(pipe.unet).values()]
    values += [p for n, p in pipe.text_encoder.named_parameters() if "svfit_rows" in n]
    assert {value.device.type for value in values} == {"meta"}
    wanted = picture(pipe)
    pipe.remove_all_hooks()
    assert torch.equal(picture(pipe), wanted)
    assert loaded_concepts(pipe)["rex"].strength == 1


def test_to_another_device_map_and_back(pipe, concepts):
    load_concept(pipe, concepts[0], name="rex")
    wanted = picture(pipe)
    pipe.reset_device_map()
    pipe.to("cpu", torch.float64).to(torch.float32)
    assert near(picture(pipe), wanted)


@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
def test_weights_stored_in_eight_bits(pipe, base_folder, concepts, early):
    """fp8 storage, multiplied in float32. Oracle: the edit added to the rounded weights."""
    one, two = concepts
    if early:
        pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
        rounded = picture(pipe)
    load_concept(pipe, one, name="rex", strength=0.8)
    if not early:
        pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    oracle = load(base_folder)
    load_concept(oracle, one, name="rex", strength=0.8)
    for (_, mine), (_, theirs) in zip(
        pipe.unet.named_parameters(), oracle.unet.named_parameters(), strict=True
    ):
        theirs.data = mine.data.to(torch.float32)
    wanted = picture(oracle)
    assert near(picture(pipe), wanted)
    delta = next(iter(layers(pipe.unet).values())).svfit_delta["rex"]
    assert delta.dtype == torch.float32
    swap_concept(pipe, "rex", two)
    swap_concept(oracle, "rex", two)
    assert near(picture(pipe), picture(oracle))
    made = picture(pipe)
    fuse_concepts(pipe)
    fused = picture(pipe)
    assert torch.isfinite(fused).all() and not torch.equal(fused, made)
    unfuse_concepts(pipe)
    assert torch.equal(picture(pipe), made)
    if early:
        remove_concept(pipe, "rex")
        assert torch.equal(picture(pipe), rounded)


def test_offload_by_name(pipe):
    with pytest.raises(ValueError, match="offload is 'both'"):
        offload(pipe, "both")
    with pytest.raises(ValueError, match="there is none"):
        offload(pipe, "model", "cpu")
