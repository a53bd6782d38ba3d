"""trigger.py and rows.py: rows beside the table, and words that become tokens."""

import copy

import pytest
import torch
from helpers.tiny_pipelines import load

from svfit_diffusion.concept import Trigger
from svfit_diffusion.pipeline import trigger
from svfit_diffusion.pipeline.word.embedding import rows_of
from svfit_diffusion.pipeline.word.rows import FIRST_ID
from svfit_diffusion.pipeline.word.words import put_names


def teach(pipe, rows, train=False, word="sks", adapter="rex"):
    call = Trigger(word, "dog", {})
    return trigger.teach(pipe.tokenizer, pipe.text_encoder, adapter, [call], [rows], train)


def embed(pipe, ids):
    """The embeddings of ids, by the text encoder's own module for them."""
    return pipe.text_encoder.embeddings(input_ids=ids) - pipe.text_encoder.embeddings(
        inputs_embeds=torch.zeros(*ids.shape, pipe.text_encoder.config.hidden_size)
    )


def test_rows_are_used_for_their_ids_only(pipe):
    encoder, plain = pipe.text_encoder, copy.deepcopy(pipe)
    own, state = encoder.get_input_embeddings(), list(encoder.state_dict())
    row = torch.randn(1, own.embedding_dim)
    ((token,),) = (word.ids for word in teach(pipe, row))
    assert token == FIRST_ID and encoder.get_input_embeddings() is own  # the table is as it was
    found = embed(pipe, torch.tensor([[0, token, 5]]))
    assert torch.allclose(found[0, 1], row[0], atol=1e-6)
    assert torch.allclose(found[0, [0, 2]], own.weight[[0, 5]], atol=1e-6)
    assert torch.equal(trigger.get_rows(encoder, "rex"), row)
    ids = torch.tensor([[0, 5, 7]])
    assert torch.equal(embed(pipe, ids), embed(plain, ids))
    trigger.forget(pipe.tokenizer, encoder, "rex")
    assert list(encoder.state_dict()) == state and type(pipe.tokenizer) is type(plain.tokenizer)
    assert not encoder.embeddings._forward_pre_hooks
    with pytest.raises(IndexError):
        embed(pipe, torch.tensor([[token]]))


def test_only_the_row_gets_a_gradient(pipe):
    pipe.text_encoder.requires_grad_(False)
    teach(pipe, torch.randn(1, pipe.text_encoder.config.hidden_size), train=True)
    ids = pipe.tokenizer("a photo of sks dog", return_tensors="pt").input_ids
    pipe.text_encoder(ids).last_hidden_state.square().sum().backward()
    (row,) = trigger.row_parameters(pipe.text_encoder, "rex")
    grads = [p for p in pipe.text_encoder.parameters() if p.grad is not None]
    assert len(grads) == 1 and grads[0] is row and row.grad.abs().sum() > 0


def test_a_token_is_one_token_wherever_it_stands(pipe):
    ((token,),) = (w.ids for w in teach(pipe, torch.randn(1, 32), word="sks-1a2b"))
    for prompt in ("sks-1a2b dog", "a dog, SKS-1a2b, photo", "A sks-1a2b"):
        ids = pipe.tokenizer(prompt).input_ids
        assert ids.count(token) == 1
        without = prompt.lower().replace("sks-1a2b", "")
        assert len(ids) - 1 == len(pipe.tokenizer(without).input_ids)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a photo of sks dog", "a photo of T1 T2 dog"),
        ("Sks, sks.", "T1 T2 , T1 T2 ."),
        ("she asks sksy (sks:1.2)", "she asks sksy ( T1 T2 :1.2)"),
        ("nothing", "nothing"),
    ],
)
def test_whole_words_become_tokens(prompt, wanted):
    assert put_names(prompt, {"sks": "T1 T2"}) == wanted


def test_no_trigger_no_change():
    assert put_names("a  b\n c", {}) == "a  b\n c"


def test_start_is_the_class_word(pipe):
    row = trigger.start_row(pipe.tokenizer, pipe.text_encoder, "dog")
    (token,) = pipe.tokenizer("dog", add_special_tokens=False).input_ids
    table = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(row, table[token])
    two = pipe.tokenizer("mug dog", add_special_tokens=False).input_ids
    mean = table[two].detach().double().mean(0).float()
    assert len(two) == 2 and torch.allclose(
        trigger.start_row(pipe.tokenizer, pipe.text_encoder, "mug dog"), mean, atol=1e-7
    )
    with pytest.raises(ValueError, match="no tokens"):
        trigger.start_row(pipe.tokenizer, pipe.text_encoder, " ")


def test_rows_of_another_width_are_refused(pipe):
    with pytest.raises(ValueError, match="another base"):
        teach(pipe, torch.zeros(1, 7))
    assert rows_of(pipe.text_encoder) is None


def test_rows_that_are_as_many_are_replaced_in_place(pipe):
    """So that a compiled encoder stays compiled, and ids in use stay true."""
    teach(pipe, torch.zeros(2, 32))
    (first,) = (list(map(id, rows_of(pipe.text_encoder).svfit_rows["rex"])),)
    (word,) = teach(pipe, torch.ones(2, 32), word="zwx")
    assert word.ids == (FIRST_ID, FIRST_ID + 1)
    assert list(map(id, rows_of(pipe.text_encoder).svfit_rows["rex"])) == first
    assert trigger.get_rows(pipe.text_encoder, "rex").eq(1).all()
    assert FIRST_ID not in pipe.tokenizer("sks").input_ids


def test_a_text_encoder_without_a_table_of_tokens_is_refused(pipe):
    with pytest.raises(ValueError, match="cannot be taught a word"):
        trigger.install_rows(pipe.unet)


def test_rows_of_an_encoder_that_is_gone_are_not_heard(pipe, base_folder):
    """A tokenizer does not keep the encoder alive, nor its words in use."""
    teach(pipe, torch.randn(1, 32))
    pipe.text_encoder = load(base_folder).text_encoder
    assert max(pipe.tokenizer("a sks dog").input_ids) < FIRST_ID
