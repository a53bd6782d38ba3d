"""LoRAs and an IP-Adapter beside a pool: each picture of a batch is that of load_concept beside the
same LoRA, or IP-Adapter, on a pipeline of its own.
"""

import copy

import pytest
import torch
from helpers.batches import BATCH, PROMPTS, TOLERANCE, call, close, concepts_of
from helpers.tiny_families import TINY
from peft import LoraConfig
from torch import nn

from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pool import ConceptPool

ENDS = ("to_q", "to_v", "ff.net.2", "q_proj", "v_proj")


@pytest.fixture(scope="module")
def base():
    """A tiny SD base in float32."""
    return TINY["sd"]().to(torch.float16).to(torch.float32)


@pytest.fixture(scope="module")
def concepts(base):
    return concepts_of(base)


@pytest.fixture
def pool(base, concepts):
    """A pool of three concepts on a copy of it."""
    pool = ConceptPool(copy.deepcopy(base))
    for name, concept in concepts.items():
        pool.add(concept, name)
    return pool


@pytest.fixture(scope="module")
def lora(base):
    """A LoRA of rank 2 for both models, as diffusers reads it from files."""
    random, state = torch.Generator().manual_seed(3), {}
    for part in ("unet", "text_encoder"):
        for name, module in getattr(base, part).named_modules():
            if isinstance(module, nn.Linear) and name.endswith(ENDS):
                shapes = {"A": (2, module.in_features), "B": (module.out_features, 2)}
                for key, shape in shapes.items():
                    value = 0.2 * torch.randn(shape, generator=random)
                    state[f"{part}.{name}.lora_{key}.weight"] = value
    return state


@pytest.fixture(scope="module")
def wanted(base, concepts, lora):
    """The pictures of the batch beside the LoRA at a weight, which is written into the weights."""
    made = {}

    def pictures(weight):
        if weight not in made:
            pipe = with_weights(base, lora, weight)
            made[weight] = [single(pipe, concepts, i) for i in range(len(BATCH))]
        return made[weight]

    return pictures


def single(base, concepts, i, **options):
    """Picture number i of the batch, by load_concept, which knows the basis of the base."""
    pipe = copy.deepcopy(base)
    for name, strength in BATCH[i].items():
        load_concept(pipe, concepts[name], strength, name=name)
    add_what_waits(pipe)
    return call(pipe, [PROMPTS[i]], [i + 1], **options)[0]


def with_weights(base, lora, weight):
    """A copy whose weights get the LoRA's products once concepts are on it."""
    pipe = copy.deepcopy(base)
    for key in [key for key in lora if "lora_A" in key] if weight else ():
        down, up = lora[key], lora[key.replace("lora_A", "lora_B")]
        part, _, name = key.removesuffix(".lora_A.weight").partition(".")
        pipe.__dict__.setdefault("waits", []).append((part, name, weight * up @ down))
    return pipe


def add_what_waits(pipe):
    for part, name, edit in pipe.__dict__.get("waits", ()):
        layer = getattr(pipe, part).get_submodule(name)
        layer = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
        layer.weight.data += edit


def put_lora(pipe, lora):
    pipe.load_lora_weights(dict(lora), adapter_name="style")


def same(pool, pictures, **options):
    made = call(lambda **o: pool(concepts=BATCH, **o), PROMPTS, [1, 2, 3, 4], **options)
    for one, picture in zip(made, pictures, strict=True):
        assert close(one, picture) < TOLERANCE


def test_a_lora_of_diffusers_before_or_after_the_first_call(pool, lora, wanted):
    put_lora(pool.pipe, lora)
    same(pool, wanted(1.0))
    pool.pipe.unload_lora_weights()
    same(pool, wanted(0))
    put_lora(pool.pipe, lora)
    same(pool, wanted(1.0))
    pool.pipe.delete_adapters("style")
    same(pool, wanted(0))


def test_a_call_of_the_pool_switches_it_on(pool, lora, wanted):
    """diffusers' calls say what acts, and so does a call of the pool, of its own concepts."""
    same(pool, wanted(0))
    put_lora(pool.pipe, lora)
    pool.pipe.set_adapters(["style"], [0.5])
    same(pool, wanted(0.5))
    pool.pipe.set_adapters(["style", "pool"], [0.5, 0.1])
    same(pool, wanted(0.5))
    pool.pipe.set_adapters(["pool"])
    same(pool, wanted(0))
    pool.pipe.disable_lora()
    same(pool, wanted(0))


def test_a_lora_that_comes_later_leaves_what_all_pictures_have(base, pool, concepts, lora):
    pipe = with_weights(base, lora, 1.0)
    load_concept(pipe, concepts["mug"], 0.6, name="mug")
    add_what_waits(pipe)
    pool.set_concepts({"mug": 0.6})
    put_lora(pool.pipe, lora)
    wanted = call(pipe, PROMPTS, [1] * 4)
    assert close(call(pool.pipe, PROMPTS, [1] * 4), wanted) < TOLERANCE
    pool.pipe.delete_adapters("style")
    before = call(pool.pipe, PROMPTS, [1] * 4)
    pool.pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "mine")
    assert torch.equal(call(pool.pipe, PROMPTS, [1] * 4), before)  # a new LoRA is nought


def test_a_lora_that_is_fused(pool, lora, wanted):
    same(pool, wanted(0))
    put_lora(pool.pipe, lora)
    pool.pipe.fuse_lora(components=["unet", "text_encoder"], adapter_names=["style"])
    same(pool, wanted(1.0))
    pool.pipe.unfuse_lora(components=["unet", "text_encoder"])
    same(pool, wanted(1.0))
    pool.close()
    pool.pipe.unload_lora_weights()
    assert not hasattr(pool.pipe.unet, "peft_config")


def test_a_concept_that_comes_once_a_lora_is_fused(base, concepts, lora):
    """Into weights that are not the base's any more a pool takes nothing, as load_concept."""
    pool = ConceptPool(copy.deepcopy(base))
    put_lora(pool.pipe, lora)
    pool.pipe.fuse_lora(components=["unet", "text_encoder"])
    with pytest.raises(ValueError, match="'style' is fused into the .*; call unfuse_lora"):
        pool.add(concepts["rex"], "rex")


def put_ip_adapter(pipe, seed=4):
    """An IP-Adapter of random weights, and the embedding [2, 1, 8] of a picture for guidance."""
    torch.manual_seed(seed)
    unet, ip = pipe.unet, {}
    crossed = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for i, name in enumerate(crossed):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for key in ("to_k_ip", "to_v_ip"):
            width = (layer.inner_dim, layer.cross_attention_dim)
            ip[f"{2 * i + 1}.{key}.weight"] = 0.3 * torch.randn(width)
    width = unet.config.cross_attention_dim
    proj = {"proj.weight": torch.randn(4 * width, 8), "proj.bias": torch.zeros(4 * width),
            "norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}  # fmt: skip
    unet._load_ip_adapter_weights([{"image_proj": proj, "ip_adapter": ip}])
    pipe.set_ip_adapter_scale(0.7)
    return torch.randn(2, 1, 8)


@pytest.mark.parametrize("first", ["pool", "ip-adapter"])
def test_an_ip_adapter(base, pool, concepts, first):
    other = copy.deepcopy(base)
    options = {"ip_adapter_image_embeds": [put_ip_adapter(other)]}
    pictures = [single(other, concepts, i, **options) for i in range(len(BATCH))]
    if first == "pool":
        same(pool, [single(base, concepts, i) for i in range(len(BATCH))])
    put_ip_adapter(pool.pipe)
    same(pool, pictures, **options)
    pool.close()
    made, plain = (call(pipe, PROMPTS, [1] * 4, **options) for pipe in (pool.pipe, other))
    assert torch.equal(made, plain)
    assert close(made, call(base, PROMPTS, [1] * 4)) > 100 * TOLERANCE
