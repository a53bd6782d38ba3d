"""A different concept for each picture of a batch: each is the picture that is generated alone, on
a fresh pipeline with load_concept (helpers/batches.py).
"""

import copy

import pytest
import torch
from helpers.batches import (
    BATCH,
    FAMILIES,
    NEGATIVE,
    PROMPTS,
    TOLERANCE,
    alone,
    call,
    close,
    concepts_of,
)
from helpers.tiny_families import TINY
from helpers.tiny_pipelines import load

from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline.fusing import fuse_concepts
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pool import ConceptPool


@pytest.mark.parametrize("name", FAMILIES)
def test_each_picture_is_the_one_generated_alone(name):
    base = TINY[name]().to(torch.float16).to(torch.float32)
    base.set_progress_bar_config(disable=True)
    concepts, pool = concepts_of(base), ConceptPool(pipe := copy.deepcopy(base))
    for key, concept in concepts.items():
        pool.add(concept, key)
    seeds, options = [5, 6, 7, 5], recognise(base).call_kwargs(base, 32, 32)
    takes_negative = name in ("sd", "sdxl", "sd3", "z-image", "qwen-image", "pixart-sigma")
    more = options | ({"negative": NEGATIVE} if takes_negative else {})
    made = call(lambda **o: pool(concepts=BATCH, **o), PROMPTS, seeds, **more)
    plain = call(base, PROMPTS, seeds, **more)
    for i, row in enumerate(BATCH):
        more = options | ({"negative": [NEGATIVE[i]]} if takes_negative else {})
        wanted = alone(base, concepts, row, PROMPTS[i], seeds[i], **more)
        assert close(made[i], wanted) < TOLERANCE, i
        if row:
            assert close(plain[i], wanted) > 100 * TOLERANCE, i
    pool.close()
    assert torch.equal(*(call(one, PROMPTS, seeds, **options) for one in (pipe, base)))


@pytest.fixture
def base():
    """A tiny SD base in float32."""
    return TINY["sd"]().to(torch.float16).to(torch.float32)


@pytest.fixture
def pool(base):
    """A pool of three concepts on a copy of it."""
    pool = ConceptPool(copy.deepcopy(base))
    for name, concept in concepts_of(base).items():
        pool.add(concept, name)
    return pool


def test_several_pictures_of_each_prompt(base, pool):
    batch, prompts = BATCH[:2], PROMPTS[:2]
    seeds = [1, 2, 3, 4, 5, 6]
    made = call(
        lambda **o: pool(concepts=batch, num_images_per_prompt=3, **o), prompts, seeds,
        ["dog", "sks"],
    )  # fmt: skip
    assert len(made) == 6
    for i, seed in enumerate(seeds):
        which = i // 3
        wanted = alone(base, concepts_of(base), batch[which], prompts[which], seed,
                       negative=[["dog"], ["sks"]][which])  # fmt: skip
        assert close(made[i], wanted) < TOLERANCE, i


def test_without_guidance_and_with_one_negative_prompt_for_all(base, pool):
    for options, single in (
        ({"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
        ({"negative": "sks"}, {"negative": ["sks"]}),
    ):
        made = call(lambda **o: pool(concepts=BATCH, **o), PROMPTS, [1, 2, 3, 4], **options)
        for i, row in enumerate(BATCH):
            wanted = alone(base, concepts_of(base), row, PROMPTS[i], i + 1, **single)
            assert close(made[i], wanted) < TOLERANCE, i


def test_one_set_of_concepts_for_all_pictures_is_load_concept_to_the_bit(base, pool):
    concepts = concepts_of(base)
    pool.set_concepts({"mug": 0.6, "zwx": 1.2})
    pipe = copy.deepcopy(base)
    for name, strength in (("mug", 0.6), ("zwx", 1.2)):
        load_concept(pipe, concepts[name], strength, name=name)
    made = call(pool.pipe, PROMPTS, [1] * 4)
    assert close(made, call(pipe, PROMPTS, [1] * 4)) < TOLERANCE
    pool.set_concepts({"mug": 0.6})
    pipe = copy.deepcopy(base)
    load_concept(pipe, concepts["mug"], 0.6, name="mug")
    assert torch.equal(call(pool.pipe, PROMPTS, [1] * 4), call(pipe, PROMPTS, [1] * 4))
    pool.set_concepts({})
    assert torch.equal(call(pool.pipe, PROMPTS, [1] * 4), call(base, PROMPTS, [1] * 4))


def test_a_call_leaves_what_all_pictures_have(pool):
    pool.set_concepts({"mug": 0.6})
    before = call(pool.pipe, PROMPTS, [1] * 4)
    call(lambda **o: pool(concepts=BATCH, **o), PROMPTS, [1] * 4)
    assert torch.equal(call(pool.pipe, PROMPTS, [1] * 4), before)
    with pytest.raises(ValueError, match="no concept 'max'"):
        pool(PROMPTS[:1], [{"max": 1.0}])
    assert torch.equal(call(pool.pipe, PROMPTS, [1] * 4), before)


def test_beside_a_loaded_concept_and_a_lora(base, pool):
    concepts = concepts_of(base)
    load_concept(pool.pipe, concepts["zwx"], 0.5, name="style")
    batch = [{"rex": 0.7}, {}]
    made = call(lambda **o: pool(concepts=batch, **o), PROMPTS[:2], [1, 2])
    for i, row in enumerate(batch):
        pipe = copy.deepcopy(base)
        load_concept(pipe, concepts["zwx"], 0.5, name="style")
        for name, strength in row.items():
            load_concept(pipe, concepts[name], strength, name=name)
        assert close(made[i], call(pipe, [PROMPTS[i]], [i + 1])[0]) < TOLERANCE
    with pytest.raises(ValueError, match="'style' and 'zwx' are both called by 'zwx'"):
        pool(PROMPTS[:1], [{"zwx": 1.0}])


def test_the_scale_of_a_call_acts_on_deltas_and_words(base, pool):
    made = call(
        lambda **o: pool(concepts=BATCH[:2], **o), PROMPTS[:2], [1, 2],
        cross_attention_kwargs={"scale": 0.5},
    )  # fmt: skip
    for i, row in enumerate(BATCH[:2]):
        pipe = copy.deepcopy(base)
        for name, strength in row.items():
            load_concept(pipe, concepts_of(base)[name], strength / 2, name=name)
        assert close(made[i], call(pipe, [PROMPTS[i]], [i + 1])[0]) < TOLERANCE


def test_in_half_precision(base):
    half = copy.deepcopy(base).to(torch.bfloat16)
    pool, concepts = ConceptPool(copy.deepcopy(half)), concepts_of(base)
    for name in ("rex", "mug"):
        pool.add(concepts[name], name)
    made = call(lambda **o: pool(concepts=BATCH[:2], **o), PROMPTS[:2], [1, 2])
    for i, row in enumerate(BATCH[:2]):
        assert close(made[i], alone(half, concepts, row, PROMPTS[i], i + 1)) < 0.05


def test_what_makes_no_sense_is_refused_in_a_sentence(base, pool):
    with pytest.raises(ValueError, match="for 1 of 2 prompts; pass a list with one dict for each"):
        pool(PROMPTS[:2], [{"rex": 1.0}])
    with pytest.raises(ValueError, match="pass a list"):
        pool(PROMPTS[:1], {"rex": 1.0})
    with pytest.raises(ValueError, match="both called by 'sks'"):
        pool(PROMPTS[:1], [{"rex": 1.0, "mug": 0.5}])
    with pytest.raises(ValueError, match="strength is nan"):
        pool(PROMPTS[:1], [{"rex": float("nan")}])
    with pytest.raises(ValueError, match="already has a concept 'rex'"):
        pool.add(concepts_of(base)["rex"], "rex")
    with pytest.raises(ValueError, match="already has an adapter named 'pool'"):
        pool.set_concepts({"rex": 1.0})
        ConceptPool(pool.pipe)
    with pytest.raises(ValueError, match="other weights"):
        ConceptPool(make_other := TINY["sd"](seed=1)).add(concepts_of(base)["rex"], "rex")
    assert make_other is not None


def test_a_call_with_other_rows_is_refused(pool):
    pool._use(BATCH[:3])
    with pytest.raises(ValueError, match="2 texts, but concepts were given for 3"):
        call(pool.pipe, PROMPTS[:2], [1, 2])
    layer = next(layer for layer in pool._layers._layers if layer.svfit_scaling["pool"])
    with pytest.raises(ValueError, match="called with 2 rows, but concepts were given for 3"):
        layer(torch.zeros(2, 5, layer.in_features))


def test_fusing_with_a_pool_is_refused(pool):
    pool.set_concepts({"rex": 1.0})
    before = call(pool.pipe, PROMPTS, [1] * 4)
    with pytest.raises(ValueError, match="load_concept the one to merge, and close the pool"):
        fuse_concepts(pool.pipe)
    assert torch.equal(call(pool.pipe, PROMPTS, [1] * 4), before)


def test_saving_with_a_pool_saves_the_base(base, pool, tmp_path, caplog):
    pool.set_concepts({"rex": 1.0})
    pool.pipe.save_pretrained(tmp_path)
    assert "saved without" in caplog.text and "rex" in caplog.text
    saved = load(tmp_path)
    assert torch.equal(call(saved, PROMPTS, [1] * 4), call(base, PROMPTS, [1] * 4))
