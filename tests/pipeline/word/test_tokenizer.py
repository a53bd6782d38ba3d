"""tokenizer.py and words.py: a tokenizer that hears learned words, whoever asks it."""

import copy
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_pipelines import load, make_concept, make_xl_pipeline, picture
from hypothesis import given
from hypothesis import strategies as st

from svfit_diffusion.pipeline.fusing import fuse_concepts
from svfit_diffusion.pipeline.loading import convert_prompt, load_concept, remove_concept
from svfit_diffusion.pipeline.word.words import find_words, put_names, token_names


def rows_of_several(concept, count):
    """The concept with a word of several rows."""
    part, (_, width) = next(iter(concept.trigger_shape.items()))
    rows = np.random.default_rng(5).standard_normal(count * width).astype(np.float16) / 20
    return replace(concept, trigger_rows=rows, trigger_shape={part: (count, width)})


@pytest.fixture
def two_words(pipe):
    """A pipeline that knows `sks` (two rows) and `my-dog`."""
    load_concept(pipe, rows_of_several(make_concept(pipe, size=0), 2), name="rex")
    load_concept(pipe, make_concept(pipe, size=0, token="my-dog", seed=1), name="dog")
    return pipe


def test_ids_stand_where_the_words_stand(two_words):
    read = two_words.tokenizer
    plain = copy.deepcopy(load(two_words.config._name_or_path).tokenizer)

    def ids(text):
        return plain(text, add_special_tokens=False).input_ids

    sks, dog = [1_000_000, 1_000_001], [1_000_002]
    assert read("a photo of SKS, my-dog", add_special_tokens=False).input_ids == (
        ids("a photo of") + sks + ids(",") + dog
    )
    assert read(["sks", "asks (sks:1.2)"], add_special_tokens=False).input_ids == [
        sks,
        [*ids("asks ("), *sks, *ids(":1.2)")],
    ]
    batch = read(["sks a", "a my-dog sks"], padding="max_length", return_tensors="pt", max_length=9)
    assert batch.input_ids.shape == (2, 9)
    assert batch.input_ids[1, 2:5].tolist() == dog + sks
    assert batch.attention_mask.sum().item() == (2 + 3) + (2 + 4)
    cut = read("a a a sks", max_length=6, truncation=True).input_ids
    assert cut == [plain.bos_token_id, *ids("a a a"), sks[0], plain.eos_token_id]


def test_every_way_to_read_gives_the_same(two_words):
    read, text = two_words.tokenizer, "photo of sks, my-dog"
    ids = read(text, add_special_tokens=False).input_ids
    pieces = read.tokenize(text)
    assert read.encode(text, add_special_tokens=False) == ids
    assert read.convert_tokens_to_ids(pieces) == ids
    assert read.convert_ids_to_tokens(ids) == pieces
    assert "<svfit-sks-0>" in pieces and "<svfit-my-dog-0>" in pieces
    assert read(read.decode(ids), add_special_tokens=False).input_ids == ids
    assert read.batch_decode(torch.tensor([ids])) == [read.decode(ids)]
    assert read(convert_prompt(two_words, text), add_special_tokens=False).input_ids == ids
    split = read(["photo", "of", "sks", ",", "my-dog"], is_split_into_words=True)
    assert split.input_ids[1:-1] == ids
    pair = read("sks", "my-dog", return_tensors="np").input_ids[0].tolist()
    assert [i for i in pair if i >= 1_000_000] == [1_000_000, 1_000_001, 1_000_002]


def test_offsets_are_those_of_the_text_as_it_was(two_words):
    text = "a sks dog, my-dog"
    found = two_words.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    words = [text[a:b] for a, b in found.offset_mapping]
    assert words == ["a", "sks", "sks", "dog", ",", "my-dog"]


def test_end_of_text_in_the_prompt_stays_what_it_is(two_words):
    read = two_words.tokenizer
    ids = read("<|endoftext|> sks <|endoftext|>", add_special_tokens=False).input_ids
    assert ids == [read.eos_token_id, 1_000_000, 1_000_001, read.eos_token_id]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_hear_the_same_and_can_be_saved_as_the_base_s(two_words, copied, tmp_path):
    made = copied(two_words.tokenizer)
    assert made("sks my-dog").input_ids == two_words.tokenizer("sks my-dog").input_ids
    made.save_pretrained(tmp_path)
    plain = type(load(two_words.config._name_or_path).tokenizer).from_pretrained(tmp_path)
    assert "svfit" not in "".join(p.read_text() for p in tmp_path.iterdir())
    assert len(plain) == len(made) and plain("sks").input_ids != made("sks").input_ids


def weighted_states(pipe, parts):
    """Prompt states by code that tokenizes by itself, a weight on each part, as Compel's do."""
    ids, weights = [], []
    for text, weight in parts:
        found = pipe.tokenizer(text, add_special_tokens=False).input_ids
        ids += found
        weights += [weight] * len(found)
    ids = [pipe.tokenizer.bos_token_id, *ids, pipe.tokenizer.eos_token_id]
    with torch.no_grad():
        states = pipe.text_encoder(torch.tensor([ids])).last_hidden_state
        empty = states.mean(1, keepdim=True)
    scale = torch.tensor([1.0, *weights, 1.0])[None, :, None]
    return empty + scale * (states - empty)


def test_embeddings_made_outside_hear_the_word(pipe, base_folder):
    """Oracle: a tokenizer with a true token, in whose row of the table the learned row is."""
    concept = make_concept(pipe, targets={"unet": "both"})
    load_concept(pipe, concept)
    other = load(base_folder)
    other.tokenizer.add_tokens("<learned>")
    other.text_encoder.resize_token_embeddings(len(other.tokenizer))
    row = torch.from_numpy(concept.trigger_rows.astype(np.float32))
    other.text_encoder.get_input_embeddings().weight.data[-1] = row
    parts = (("a photo of ", 1.0), ("sks", 1.3), (" dog", 1.0))
    wanted = weighted_states(other, [(t.replace("sks", "<learned>"), w) for t, w in parts])
    assert torch.equal(weighted_states(pipe, parts), wanted)


CLASHES = [("rex", "rex-v2"), ("my-dog", "dog"), ("sks", "sks-2"), ("<toy>", "toy"),
           ("svfit", "0"), ("svfit-sks-0", "sks"), ("a b", "b")]  # fmt: skip


@pytest.mark.parametrize("words", CLASHES, ids=" ".join)
def test_words_that_contain_one_another(pipe, base_folder, words):
    """Each is heard by itself, as on a pipeline that knows no other."""
    one = make_concept(pipe, size=0, targets={"unet": "cross"}, rank=1)
    concepts = {w: replace(one, token=w, trigger_rows=one.trigger_rows * (i + 1))
                for i, w in enumerate(words)}  # fmt: skip
    for concept in concepts.values():
        load_concept(pipe, concept)
    both = pipe.tokenizer(f"{words[0]}, {words[1]} photo", add_special_tokens=False).input_ids
    assert [i for i in both if i >= 1_000_000] == [1_000_000, 1_000_001]
    for word, concept in concepts.items():
        alone = load(base_folder)
        load_concept(alone, concept)
        states = [one.encode_prompt(f"a photo of {word}", "cpu", 1, False)[0]
                  for one in (pipe, alone)]  # fmt: skip
        assert torch.equal(*states)


TABLE = {w: " ".join(token_names(w, 2)) for w in ("rex", "rex-v2", "svfit", "<toy>", "toy", "0")}


PIECES = [*TABLE, *TABLE.values(), "REX", "a", ",", "trex", "<", "-v2", " "]


@given(st.lists(st.sampled_from(PIECES)))
def test_converting_twice_is_converting_once(parts):
    once = put_names(" ".join(parts), TABLE)
    assert put_names(once, TABLE) == once
    left = re.sub(r"<svfit-.*?-\d>(?= |$|,)", "", once)
    assert "trex" in left or "rex " not in f"{left} ".lower().replace("trex", "")


def test_the_longest_word_wins_from_left_to_right():
    words = dict.fromkeys(("rex", "rex-v2", "a rex"))
    found = [text for _, _, text in find_words("a REX-v2, rex, (a Rex) rexy", words)]
    assert found == ["a rex", "rex", "a rex"]
    assert [t for *_, t in find_words("REX-V2 a", words)] == ["rex-v2"]


def test_the_class_word_may_be_another_concept_s_trigger(pipe, base_folder):
    """`dog` as the class of one and the trigger of the other: the row starts at the base's dog."""
    one, two = make_concept(pipe, size=0), make_concept(pipe, size=0, seed=1, token="dog")
    load_concept(pipe, two, name="dog")
    load_concept(pipe, one, name="rex", strength=0.5)
    alone = load(base_folder)
    load_concept(alone, one, strength=0.5)
    assert torch.equal(picture(pipe, "a sks"), picture(alone, "a sks"))


def test_two_encoders_of_one_base_hear_it_each():
    pipe = make_xl_pipeline()
    concept = make_concept(pipe, targets={"unet": "both"})
    widths = {p: getattr(pipe, p).config.hidden_size for p in ("text_encoder", "text_encoder_2")}
    rows = np.random.default_rng(1).standard_normal(sum(widths.values())).astype(np.float16) / 20
    shapes = {part: (1, width) for part, width in widths.items()}
    load_concept(pipe, replace(concept, trigger_rows=rows, trigger_shape=shapes), name="rex")
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        assert tokenizer("a sks", add_special_tokens=False).input_ids[1:] == [1_000_000]
    remove_concept(pipe, "rex")
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        assert max(tokenizer("a sks").input_ids) < 1_000


@pytest.mark.parametrize("fused", [False, True])
def test_after_removal_the_tokenizer_and_what_it_saves_are_the_bases(pipe, tmp_path, fused):
    """No token is added to it; to the byte."""
    read, text = pipe.tokenizer, "a photo of sks dog"
    kind, size, ids = type(read), len(read), read(text).input_ids
    read.save_pretrained(tmp_path / "before")
    load_concept(pipe, make_concept(pipe), name="rex")
    assert max(read(text).input_ids) >= 1_000_000
    if fused:
        fuse_concepts(pipe)
    remove_concept(pipe, "rex")
    assert (type(read), len(read), read(text).input_ids) == (kind, size, ids)
    read.save_pretrained(tmp_path / "after")
    before, after = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("before", "after")
    )
    assert before and after == before
