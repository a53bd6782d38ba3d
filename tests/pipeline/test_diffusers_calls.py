"""diffusers' own calls act on concepts as on LoRAs, words included, and what is read is true.

The oracle is our own calls on a fresh pipeline.
"""

import copy

import numpy as np
import pytest
import torch
from helpers.tiny_pipelines import load, make_concept, picture

from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline.attached import loaded_concepts
from svfit_diffusion.pipeline.fusing import fuse_concepts, unfuse_concepts
from svfit_diffusion.pipeline.loading import (
    load_concept,
    remove_concept,
    set_concepts,
    swap_concept,
)


@pytest.fixture
def two(pipe, base_folder):
    """A pipeline with a concept at 0.8, the same concept on a fresh one, and the base's picture."""
    concept, base = make_concept(pipe), picture(pipe)
    fresh = load(base_folder)
    for held in (pipe, fresh):
        load_concept(held, concept, name="rex", strength=0.8)
    return pipe, fresh, base


def near(a, b):
    return ((a - b).norm() / b.norm()).item() < 1e-5


def strength(pipe):
    return loaded_concepts(pipe)["rex"].strength


def test_set_adapters_weighs_deltas_and_word(two):
    pipe, fresh, _ = two
    pipe.set_adapters("rex", 0.5)
    set_concepts(fresh, {"rex": 0.5})
    assert torch.equal(picture(pipe), picture(fresh)) and strength(pipe) == 0.5
    held, table = loaded_concepts(pipe)["rex"].concept, pipe.text_encoder.get_input_embeddings()
    dog = table.weight[pipe.tokenizer("dog").input_ids[1:-1]].mean(0)
    row = dog + 0.5 * (torch.from_numpy(held.trigger_rows).float().flatten() - dog)
    assert torch.allclose(read_as(pipe, "sks"), row, atol=1e-6)
    pipe.set_adapters(["rex"], [{"unet": 0.3, "text_encoder": 0.6}])
    assert loaded_concepts(pipe)["rex"].strengths == {"unet": 0.3, "text_encoder": 0.6}


def read_as(pipe, word):
    """The embedding [width] by which a text encoder reads a word, its place taken off."""
    embeddings = next(m for m in pipe.text_encoder.modules() if hasattr(m, "position_embedding"))
    ids = torch.tensor(pipe.tokenizer(word).input_ids)[None]
    return embeddings(ids)[0, 1] - embeddings.position_embedding.weight[1]


def test_disable_and_enable(two):
    pipe, fresh, base = two
    pipe.disable_lora()
    assert torch.equal(picture(pipe), base) and strength(pipe) == 0
    pipe.enable_lora()
    assert torch.equal(picture(pipe), picture(fresh)) and strength(pipe) == 0.8
    pipe.disable_lora()
    set_concepts(pipe, {"rex": 0.8})
    assert torch.equal(picture(pipe), picture(fresh))


@pytest.mark.parametrize("how", ["unload_lora_weights", "delete_adapters"])
def test_what_is_unloaded_is_gone_and_said_to_be(two, how):
    pipe, fresh, base = two
    getattr(pipe, how)(*(["rex"] if how == "delete_adapters" else []))
    assert torch.equal(picture(pipe), base) and not loaded_concepts(pipe)
    concept = loaded_concepts(fresh)["rex"].concept
    with pytest.raises(ValueError, match="no concept named 'rex' is loaded"):
        set_concepts(pipe, {"rex": 1})
    with pytest.raises(ValueError, match="no concept named 'rex' is loaded"):
        swap_concept(pipe, "rex", concept)
    load_concept(pipe, concept, name="rex", strength=0.8)
    assert torch.equal(picture(pipe), picture(fresh))
    remove_concept(pipe, "rex")
    assert torch.equal(picture(pipe), base)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_a_scale_for_one_call_is_for_one_call(two, scale):
    pipe, fresh, _ = two
    made = picture(pipe, cross_attention_kwargs={"scale": scale})
    set_concepts(fresh, {"rex": 0.8 * scale})
    assert near(made, picture(fresh))
    as_class_word = picture(load(pipe.config._name_or_path), "a photo of dog dog")
    assert scale or torch.equal(made, as_class_word)
    assert loaded_concepts(pipe)["rex"].strengths == {"unet": 0.8, "text_encoder": 0.8}
    set_concepts(fresh, {"rex": 0.8})
    assert torch.equal(picture(pipe), picture(fresh))


def test_fuse_lora_and_back(two):
    pipe, fresh, base = two
    weights = copy.deepcopy(load(pipe.config._name_or_path).unet.state_dict())
    pipe.fuse_lora(components=["unet", "text_encoder"], lora_scale=0.5)
    set_concepts(fresh, {"rex": 0.4})
    assert near(picture(pipe), picture(fresh)) and strength(pipe) == 0.4
    pipe.unfuse_lora(components=["unet", "text_encoder"])
    held = {k.replace(".base_layer", ""): v for k, v in pipe.unet.state_dict().items()}
    assert all(torch.equal(held[key], value) for key, value in weights.items())
    set_concepts(pipe, {})
    assert torch.equal(picture(pipe), base)


def test_fuse_then_unload_keeps_edit_and_word(two):
    """As diffusers' guide does with a LoRA, to be free of its layers."""
    pipe, fresh, _ = two
    wanted = picture(fresh)
    pipe.fuse_lora(components=["unet", "text_encoder"])
    pipe.unload_lora_weights()
    assert near(picture(pipe), wanted) and not loaded_concepts(pipe)


def test_strengths_that_change_while_fused_unfuse_first(two):
    pipe, fresh, _ = two
    fuse_concepts(pipe)
    with pytest.warns(UserWarning, match="unfused before strengths change"):
        pipe.set_adapters("rex", 0.3)
    set_concepts(fresh, {"rex": 0.3})
    assert torch.equal(picture(pipe), picture(fresh)) and strength(pipe) == 0.3


def learn(pipe, token):
    """A textual inversion, as diffusers loads one."""
    width = pipe.text_encoder.config.hidden_size
    row = torch.randn(1, width, generator=torch.Generator().manual_seed(len(token))) / 20
    pipe.load_textual_inversion(row, token=token)


@pytest.mark.parametrize("order", ["before", "after", "both"])
def test_textual_inversions_come_and_go_beside_a_concept(pipe, base_folder, order):
    concept, fresh = make_concept(pipe), load(base_folder)
    load_concept(fresh, concept)
    wanted = picture(fresh)
    if order != "after":
        learn(pipe, "<one>")
    load_concept(pipe, concept, name="rex")
    if order != "before":
        learn(pipe, "<three>")
    assert torch.equal(picture(pipe), wanted)
    other = load(base_folder)
    learn(other, "<one>" if order == "before" else "<three>")
    load_concept(other, concept)
    prompt = "sks dog, <one>" if order == "before" else "sks dog, <three>"
    assert torch.equal(picture(pipe, prompt), picture(other, prompt))
    if order == "both":
        pipe.unload_textual_inversion("<one>")
        assert torch.equal(picture(pipe, prompt), picture(other, prompt))
    pipe.unload_textual_inversion()
    assert torch.equal(picture(pipe), wanted)
    remove_concept(pipe, "rex")
    plain = load(base_folder)
    assert torch.equal(picture(pipe), picture(plain))


def test_a_textual_inversion_around_the_word_stays_itself(pipe, base_folder):
    """`<sks>` of the tokenizer is not `sks`."""
    learn(pipe, "<sks>")
    plain = picture(pipe, "a photo of <sks>")
    load_concept(pipe, make_concept(load(base_folder), size=0), name="rex")
    assert torch.equal(picture(pipe, "a photo of <sks>"), plain)


def test_fuse_qkv_projections_is_refused_with_a_concept(pipe, base_folder):
    concept = make_concept(pipe)
    load_concept(pipe, concept, name="rex")
    made = picture(pipe)
    for call in (pipe.fuse_qkv_projections, pipe.unet.fuse_qkv_projections):
        with pytest.raises(ValueError, match="would drop what rex changes.*svfit export --fuse"):
            call()
    assert torch.equal(picture(pipe), made)
    early = load(base_folder)
    early.unet.fuse_qkv_projections()
    before = picture(early)
    with pytest.raises(ValueError, match="unfuse_qkv_projections"):
        load_concept(early, concept)
    assert torch.equal(picture(early), before)
    early.unet.unfuse_qkv_projections()
    load_concept(early, concept)
    assert torch.equal(picture(early), made)
    remove_concept(pipe, "rex")
    pipe.unet.fuse_qkv_projections()
    assert near(picture(pipe), picture(load(base_folder)))


def test_saving_with_a_concept_on_saves_the_base(two, tmp_path, caplog):
    pipe, fresh, base = two
    pipe.save_pretrained(tmp_path)
    assert "saved without rex" in caplog.text and "svfit export --fuse" in caplog.text
    assert torch.equal(picture(load(tmp_path)), base)
    assert torch.equal(picture(pipe), picture(fresh))  # still on


@pytest.mark.parametrize("token", ["sks", "xyxyxy"])
def test_fusing_and_saving_gives_a_base_that_knows_the_concept(pipe, tmp_path, token):
    """A word that the base reads as one token, and one that it reads as several."""
    load_concept(pipe, make_concept(pipe, token=token), name="rex", strength=0.8)
    prompt = f"a photo of {token} dog"
    wanted = picture(pipe, prompt)
    fuse_concepts(pipe)
    pipe.save_pretrained(tmp_path)
    saved = load(tmp_path)
    assert near(picture(saved, prompt), wanted) and not loaded_concepts(saved)
    unfuse_concepts(pipe)
    assert torch.equal(picture(pipe, prompt), wanted)


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.int64(1), 1])
def test_numbers_of_numpy_are_strengths(two, value):
    pipe, fresh, _ = two
    set_concepts(pipe, {"rex": value})
    set_concepts(fresh, {"rex": float(value)})
    assert strength(pipe) == float(value) and torch.equal(picture(pipe), picture(fresh))


@pytest.mark.parametrize("seed", [2**64, 2**64 - 1, -(2**63) - 1, 1.5, "1"])
def test_seeds_out_of_range_are_refused_in_a_sentence(pipe, seed):
    with pytest.raises(ValueError, match="seed is .*, but must be a whole number"):
        list(generate(pipe, "a dog", num=2, seed=seed, steps=1))
