"""A combined concept gives the same pictures as several concepts side by side."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_pipelines import load, make_concept, make_pipeline, picture

from svfit_diffusion.concept.file import from_bytes, to_bytes
from svfit_diffusion.pipeline.loading import load_concept, swap_concept
from svfit_diffusion.sharing.combining import combine

PROMPT = "a photo of sks dog and zwx mug"


def gap(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def through_a_file(concept):
    return from_bytes(to_bytes(concept), "it")


def pair(pipe, **second):
    one = make_concept(pipe, seed=1)
    return one, make_concept(pipe, **({"seed": 2, "token": "zwx"} | second))


def test_deltas_add_exactly_without_the_base(pipe):
    one, two = pair(pipe)
    made = through_a_file(combine([(one, 0.5), (two, 0.25)]))
    want = 0.5 * one.deltas.astype(float) + 0.25 * two.deltas.astype(float)
    assert np.array_equal(made.deltas, want.astype(np.float32))
    assert np.array_equal(want, made.deltas.astype(float)), "float32 holds these sums to the bit"
    want = 0.5 * one.common.astype(float) + 0.25 * two.common.astype(float)
    assert np.array_equal(made.common, want.astype(np.float32))
    assert (made.layout, made.fingerprints) == (one.layout, one.fingerprints)
    assert made.trigger == "sks dog, zwx dog" and made.check


@pytest.mark.parametrize("trigger", [False, True])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.8, -0.3)])
def test_it_draws_what_both_side_by_side_draw(pipe, base_folder, trigger, weights):
    one, two = pair(pipe, trigger=trigger)
    load_concept(pipe, through_a_file(combine([(one, weights[0]), (two, weights[1])])))
    other = load(base_folder)
    load_concept(other, one, weights[0], name="rex")
    load_concept(other, two, weights[1], name="mug")
    difference = gap(picture(pipe, PROMPT), picture(other, PROMPT))
    print(f"combined, learned={trigger}, {weights}: {difference:.1e}")
    assert difference < 1e-5
    assert gap(picture(load(base_folder), PROMPT), picture(other, PROMPT)) > 1e-2


def test_strength_and_a_further_combination_multiply(pipe, base_folder):
    one, two = pair(pipe)
    third = make_concept(pipe, seed=3, token="mug")
    made = combine([(combine([(one, 0.5), (two, 1.0)]), 0.8), (third, 0.4)])
    load_concept(pipe, through_a_file(made), strength=0.9)
    other = load(base_folder)
    for concept, weight in ((one, 0.5 * 0.8), (two, 0.8), (third, 0.4)):
        load_concept(other, concept, 0.9 * weight, name=concept.token)
    prompt = "sks dog, zwx dog and mug dog"
    assert gap(picture(pipe, prompt), picture(other, prompt)) < 1e-5


def test_other_ranks_and_projections_are_combined_on_the_base(pipe, base_folder):
    targets = {"unet": "self", "text_encoder": "self"}
    one = make_concept(pipe, rank=4, seed=1, targets=targets, common=0)
    two = make_concept(
        pipe, rank=2, seed=2, targets={"unet": "cross"}, trigger=False, token="zwx", common=0
    )
    with pytest.raises(ValueError, match="different projections or ranks, so the base is needed"):
        combine([(one, 0.5), (two, 0.5)])
    made = through_a_file(combine([(one, 0.5), (two, 0.5)], pipe=pipe))
    assert made.targets == {"unet": "both", "text_encoder": "self"} and set(made.ranks) == {2, 4}
    load_concept(pipe, made)
    other = load(base_folder)
    load_concept(other, one, 0.5, name="rex")
    load_concept(other, two, 0.5, name="mug")
    assert gap(picture(pipe, PROMPT), picture(other, PROMPT)) < 1e-5


def test_a_common_vector_beside_other_ranks(pipe, base_folder):
    """It acts in all directions of a file, so these must be its own; others' may be fewer."""
    one = make_concept(pipe, rank=4, seed=1)
    two = make_concept(pipe, rank=2, seed=2, targets={"text_encoder": "self"}, common=0, token="b")
    made = through_a_file(combine([(one, 0.5), (two, 0.5)], pipe=pipe))
    assert np.allclose(made.common, 0.5 * one.common.astype(float))
    load_concept(pipe, made)
    other = load(base_folder)
    load_concept(other, one, 0.5, name="rex")
    load_concept(other, two, 0.5, name="mug")
    assert gap(picture(pipe, PROMPT), picture(other, PROMPT)) < 1e-5
    wider = make_concept(pipe, rank=5, seed=3, common=0, token="b")
    with pytest.raises(ValueError, match="has a common vector, which acts in all directions"):
        combine([(one, 0.5), (wider, 0.5)], pipe=pipe)
    with pytest.raises(ValueError, match="common vectors of 64 and 128 numbers"):
        combine([(one, 0.5), (make_concept(pipe, seed=3, common=128, token="b"), 0.5)])


def test_two_of_one_word_need_another(pipe):
    one, two = pair(pipe, token="sks")
    with pytest.raises(ValueError, match="called by 'sks' .* --words sks zwx"):
        combine([(one, 0.5), (two, 0.5)])
    made = combine([(one, 0.5), (two, 0.5)], words=["sks", "zwx"])
    assert [call.word for call in made.all_triggers()] == ["sks", "zwx"]
    assert np.array_equal(made.all_triggers()[1].rows["text_encoder"].ravel(), two.trigger_rows)
    plain = [replace(c, trigger_rows=None, trigger_shape={}) for c in (one, two)]
    assert combine([(c, 1.0) for c in plain]).trigger == "sks dog"


def test_a_combined_concept_on_a_pipeline(pipe):
    one, two = pair(pipe)
    made = combine([(one, 1.0), (two, 1.0)])
    load_concept(pipe, made, name="both")
    with pytest.raises(ValueError, match="'rex' and 'both' are both called by 'sks'"):
        load_concept(pipe, one, name="rex")
    with pytest.raises(ValueError, match="cannot stand for it"):
        load_concept(pipe, made, name="again", token="mug")
    before = picture(pipe, PROMPT)
    swap_concept(pipe, "both", one)
    swap_concept(pipe, "both", made)
    assert torch.equal(picture(pipe, PROMPT), before)


def test_what_cannot_be_combined_is_refused(pipe):
    one, two = pair(pipe)
    other = make_concept(make_pipeline(seed=5), token="zwx")
    old = replace(two, check=())
    cases = [
        ([(one, 1.0)], "at least two"),
        ([(one, 1.0), (two, float("nan"))], "strength is nan"),
        ([(one, 1.0), (other, 1.0)], "different bases"),
        ([(one, 1.0), (replace(two, family="sdxl"), 1.0)], "different bases"),
        ([(one, 1.0), (old, 1.0)], "version 1, without a self-check"),
    ]
    for concepts, reason in cases:
        with pytest.raises(ValueError, match=reason):
            combine(concepts)
    with pytest.raises(ValueError, match="1 words for 2 concepts"):
        combine([(one, 1.0), (two, 1.0)], words=["sks"])
    with pytest.raises(ValueError, match="base given is not 'tiny'"):
        combine([(one, 1.0), (old, 1.0)], pipe=make_pipeline(seed=5))
    assert combine([(one, 1.0), (old, 1.0)], pipe=pipe).check


def test_words_are_checked_as_those_of_a_renaming(pipe):
    """A word that nobody learned is the base's own, whatever it is called; nothing is dropped."""
    learned = make_concept(pipe, seed=1)
    unlearned = make_concept(pipe, seed=2, token="cat", trigger=False)
    with pytest.raises(ValueError, match="'cat' was not learned"):
        combine([(learned, 1.0), (unlearned, 1.0)], words=["sks", "zwx"])
    with pytest.raises(ValueError, match="'' cannot be a concept's word"):
        combine([(learned, 1.0), (unlearned, 1.0)], words=["", "cat"])
    both = combine([(learned, 1.0), (make_concept(pipe, seed=3, token="mug"), 1.0)])
    other = make_concept(pipe, seed=4, token="zwx")
    with pytest.raises(ValueError, match="called by 'mug', 'sks'; pass one of them"):
        combine([(both, 1.0), (other, 1.0)], words=["rex", "zwx"])
    made = combine([(both, 1.0), (other, 1.0)], words=["mug", "zwy"])
    assert {call.word for call in made.all_triggers()} == {"mug", "sks", "zwy"}
