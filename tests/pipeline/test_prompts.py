"""prompts.py and advice.py: what is not read, and what was not learned, is told."""

import logging
import re
from dataclasses import replace

import pytest
from helpers.tiny_families import TINY
from helpers.tiny_pipelines import make_concept, make_xl_pipeline, run

from svfit_diffusion.families import load_base
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pipeline.prompts import unread, warn_split_trigger, warn_unread_prompt
from svfit_diffusion.training.advice import advice


def pieces(pipe, prompt):
    return len(pipe.tokenizer(prompt, add_special_tokens=False).input_ids)


def test_the_end_that_is_not_read_is_quoted(pipe):
    assert pieces(pipe, "a photo of sks dog") + 2 < 16
    words = "a photo of sks dog"
    while pieces(pipe, words) < 14:
        words += " a"
    assert unread(pipe, words) == "" and warn_unread_prompt(pipe, words) == ""
    assert unread(pipe, words + " Mug, beach") == "Mug, beach"
    assert unread(pipe, words + "\nmug") == "mug"
    told = warn_unread_prompt(pipe, words + " mug", "caption")
    assert told == ("the caption is too long: this base does not read its end 'mug'; shorten it.")
    assert len(warn_unread_prompt(pipe, words + " mug" * 1000)) < 400


def test_what_is_not_read_changes_no_picture(pipe):
    """The quoted end is all that is lost, and all of it is."""
    words = "a photo of sks dog a a a a a a a a a a a a a a a mug"
    end = unread(pipe, words)
    kept = words[: -len(end)]

    def ids(text):
        options = {"truncation": True, "padding": "max_length", "max_length": 16}
        return pipe.tokenizer(text, **options).input_ids

    assert end and ids(words) == ids(kept) and unread(pipe, kept) == ""
    assert ids(kept) != ids(kept.rstrip()[:-1])


def test_a_learned_word_counts_as_its_tokens(pipe):
    concept = replace(make_concept(pipe, token="xyxyxy"))
    words = "xyxyxy dog a a a a a a a a"
    assert pieces(pipe, words) > 14 and unread(pipe, words)
    load_concept(pipe, concept, name="rex")
    assert unread(pipe, words) == ""
    assert unread(pipe, "a a a a a a a a a a a a a a xyxyxy dog") == "xyxyxy dog"


def test_of_several_tokenizers_the_one_that_reads_most_counts():
    pipe = make_xl_pipeline()
    words = "a a a a a a a a a a a a a a mug"
    assert unread(pipe, words) == "mug"
    pipe.tokenizer_2.model_max_length = 32
    assert unread(pipe, words) == ""


@pytest.mark.parametrize("name", [name for name in TINY if name[:3] not in ("sd", "sd2", "sdx")])
def test_of_the_other_families_the_readers_count(name):
    pipe = TINY[name][0]() if isinstance(TINY[name], tuple) else TINY[name]()
    assert unread(pipe, "a photo of sks dog on the beach " * 2) == ""
    assert "beach" in unread(pipe, "a photo of sks dog on the beach " * 100)


def test_a_training_tells_what_of_its_captions_is_not_read(config, caplog):
    with caplog.at_level(logging.WARNING):
        run(config, max_train_steps=1)
        assert "too long" not in caplog.text
        prompt = "a photo of sks dog in a very wide, wide desert"
        run(config, max_train_steps=1, instance_prompt=prompt, validation_prompt=prompt)
    end = r"'.*desert'; shorten it\."
    for what in ("caption", "validation prompt"):
        start = re.escape(f"the {what} 'a photo of sks dog in a very wide, wide '")
        assert re.search(
            start + " is too long: this base does not read its end " + end, caplog.text
        )


def test_generation_tells_what_is_not_read(pipe, caplog):
    with caplog.at_level(logging.WARNING):
        list(generate(pipe, "sks dog", steps=1))
        assert "too long" not in caplog.text
        list(generate(pipe, "sks dog " * 20, negative_prompt="mug " * 20, steps=1))
    assert "the prompt is too long: this base does not read its end 'sks dog" in caplog.text
    assert "the negative prompt is too long: this base does not read its end 'mug" in caplog.text


def test_a_trigger_in_many_pieces_is_told_with_better_ones(pipe, config, caplog):
    assert warn_split_trigger(pipe, "sks", learned=False) == ""
    told = warn_split_trigger(pipe, "qqq", learned=False)
    assert "'qqq' is read in 3 pieces (q q q</w>)" in told
    assert told.endswith("--placeholder_token sks or zwx.")
    assert warn_split_trigger(pipe, "qqq", learned=True) == ""  # it has a token of its own
    assert warn_split_trigger(load_base("toybox"), "ohwx", learned=False) == ""
    with caplog.at_level(logging.WARNING):
        run(config, max_train_steps=1, placeholder_token="qqq", instance_prompt="a qqq dog")
        assert "pieces" not in caplog.text
        given = {"placeholder_token": "qqq", "instance_prompt": "a qqq dog", "train_token": False}
        run(config, max_train_steps=1, **given)
    assert "the trigger 'qqq' is read in 3 pieces" in caplog.text


def test_a_training_that_learns_nothing_says_what_to_try(config, caplog):
    with caplog.at_level(logging.WARNING):
        result = run(config, max_train_steps=10, train_batch_size=4)
        assert result.loss_after < result.loss_before and result.advice == ()
        assert "nothing was learned" not in caplog.text
        small = run(config, learning_rate=1e-12, token_lr=1e-12)
    (told,) = small.advice
    assert not small.concept.deltas.any() and told in caplog.text
    assert "every value of the file is zero. --learning_rate is 1e-12: try a higher" in told
    wild = run(  # of a base that predicts well, as random weights do not
        config, learning_rate=50.0, token_lr=2500.0, delta_bits=16,
        pretrained_model_name_or_path="toybox", caption_backgrounds=False,
    )  # fmt: skip
    assert wild.loss_after > 1.2 * wild.loss_before
    assert "did not fall" in wild.advice[0] and "Try a tenth of the rate" in wild.advice[0]


def test_each_cause_has_its_advice(config):
    import numpy as np

    none, some = np.zeros(3, np.float16), np.ones(3, np.float16)
    warming = replace(config, lr_warmup_steps=9)
    assert "--lr_warmup_steps 9 of 4 steps" in advice(warming, none, 4, 1.0, 1.0)[0]
    assert "Try more --max_train_steps, of which 4" in advice(config, some, 4, 1.0, 1.0)[0]
    assert "did not fall (1.0000 -> nan)" in advice(config, some, 4, 1.0, float("nan"))[0]
    assert advice(config, some, 4, 1.0, 0.99) == []
    assert advice(config, none, 0, 1.0, 1.0) == []  # stopped before it began
