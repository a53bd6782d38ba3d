"""Words in the output of text encoders, in a batch: each prompt gets the vectors of its own
concepts, whether its pipeline tokenizes the prompts together or one by one.

The oracle is load_concept on a pipeline of its own.
"""

import copy

import pytest
import torch
from helpers.batches import FAMILIES, concepts_of
from helpers.tiny_families import TINY

from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pool import ConceptPool

CPU = torch.device("cpu")
PROMPTS = ["sks dog, SKS", "sks mug", "a photo of sks", "zwx and sks, asks", "sks"]
OTHERS = ("sd", "sdxl", "qwen-image")  # whose encoders are trained, or read one by one in trainings
BATCH = [{"rex": 0.7}, {"mug": 1.0}, {}, {"rex": 0.3, "zwx": -0.5}, {"mug": 0.0}]


def opened(base, **more):
    """A pool on a copy of a base, and its concepts; more: words of some of them."""
    concepts, pool = concepts_of(base), ConceptPool(copy.deepcopy(base))
    for name, concept in concepts.items():
        pool.add(concept, name, more.get(name))
    return pool, concepts


@torch.no_grad()
def states(pipe, *prompts):
    """The states of each prompt, without what a batch pads them with."""
    family = recognise(pipe)
    key = next(iter(family.outputs(pipe).values())).states
    read = family.encode_frozen(pipe, list(prompts), CPU)
    masks = read.get("there", torch.ones(read[key].shape[:2])) > 0.5
    return [one[mask] for one, mask in zip(read[key], masks, strict=True)]


@pytest.fixture(scope="module")
def looped():
    """A base whose pipeline tokenizes one prompt at a time."""
    return TINY["flux2-klein"]()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in OTHERS])
def test_each_prompt_gets_the_vectors_of_its_own_concepts(name):
    pool, concepts = opened(base := TINY[name]())
    pool._use(BATCH)
    twice = states(pool.pipe, *PROMPTS, *PROMPTS)  # as guidance has it
    typed = states(base, *PROMPTS)
    for i, row in enumerate(BATCH):
        pipe = copy.deepcopy(base)
        for key, strength in row.items():
            load_concept(pipe, concepts[key], strength, name=key)
        wanted = states(pipe, PROMPTS[i])[0] - states(base, PROMPTS[i])[0]
        assert wanted.any() == any(row.values())
        for found in (twice[i], twice[i + len(BATCH)]):
            assert torch.allclose(found - typed[i], wanted, atol=1e-5), i
    pool.set_concepts({"mug": 0.6})
    load_concept(pipe := copy.deepcopy(base), concepts["mug"], 0.6, name="mug")
    for a, b in zip(states(pool.pipe, *PROMPTS), states(pipe, *PROMPTS), strict=True):
        assert torch.equal(a, b)
    pool.close()
    for a, b in zip(states(pool.pipe, *PROMPTS), typed, strict=True):
        assert torch.equal(a, b)
    encoder = next(iter(recognise(base).outputs(pool.pipe)))
    assert not getattr(pool.pipe, encoder)._forward_hooks


def test_beside_a_loaded_concept_which_all_hear(looped):
    pool, concepts = opened(looped)
    load_concept(pool.pipe, concepts["zwx"], 0.5, name="style")
    pool._use(BATCH[:2])
    found = states(pool.pipe, "zwx sks", "sks zwx")
    for i, (prompt, name) in enumerate((("zwx sks", "rex"), ("sks zwx", "mug"))):
        load_concept(pipe := copy.deepcopy(looped), concepts["zwx"], 0.5, name="style")
        load_concept(pipe, concepts[name], BATCH[i][name], name=name)
        assert torch.allclose(found[i], states(pipe, prompt)[0], atol=1e-5)


def test_texts_of_no_batch(looped):
    """One without a learned word may be read at any time; whose another one is, nobody knows."""
    pool, _ = opened(looped)
    pool._use(BATCH[:3])
    assert torch.equal(states(pool.pipe, "a dog")[0], states(looped, "a dog")[0])
    with pytest.raises(ValueError, match="was given 2 texts, but concepts were given for 3"):
        states(pool.pipe, "sks", "a dog")


def test_words_that_overlap(looped):
    """Alone, "dog" is read in the second prompt of each; together, "sks dog" would be."""
    pool, concepts = opened(looped, rex="sks dog", mug="dog")
    rows = [{"rex": 1.0}, {"mug": 1.0}]
    pool._use(rows)
    read = [
        pipe.tokenizer.decode(pipe.tokenizer("a sks dog").input_ids) for pipe in (pool.pipe, looped)
    ]
    assert read[0] == read[1]  # a text of no batch may be read at any time
    with pytest.raises(ValueError, match="of the words dog, sks dog some overlap in a prompt"):
        states(pool.pipe, "a sks dog", "a sks dog")
    found = states(pool.pipe, "my dog", "a dog")
    load_concept(pipe := copy.deepcopy(looped), concepts["mug"], name="mug", token="dog")
    assert torch.allclose(found[1], states(pipe, "a dog")[0], atol=1e-5)
    assert torch.allclose(found[0], states(looped, "my dog")[0], atol=1e-5)


def test_many_switches_take_no_new_ids(looped):
    pool, _ = opened(looped)
    seen = set()
    for _ in range(5):
        pool._use(BATCH)
        seen.add(max(pool.pipe.tokenizer("sks").input_ids))
        pool._use(BATCH[:2])
    assert len(seen) == 1
    pool.close()
    assert max(pool.pipe.tokenizer("sks").input_ids) < len(pool.pipe.tokenizer)
