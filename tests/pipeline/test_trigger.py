"""trigger.py: rows beside the table, and words that become tokens."""

import pytest
import torch

from svfit_diffusion.pipeline import trigger


def test_rows_are_used_for_their_ids_only(pipe):
    encoder, tokenizer = pipe.text_encoder, pipe.tokenizer
    own = encoder.get_input_embeddings()
    state = encoder.state_dict().keys()
    (token,) = trigger.add_tokens(tokenizer, ["<sks-0>"])
    assert token >= own.num_embeddings  # beyond the table, which does not grow
    row = torch.randn(1, own.embedding_dim)
    trigger.set_rows(encoder, [token], row)
    ids = torch.tensor([[0, token, 5]])
    found = encoder.get_input_embeddings()(ids)
    assert torch.equal(found[0, 1], row[0])
    assert torch.equal(found[0, [0, 2]], own.weight[[0, 5]])
    assert torch.equal(trigger.get_rows(encoder, [token]), row)
    trigger.remove_rows(encoder, [token])
    assert encoder.get_input_embeddings() is own and encoder.state_dict().keys() == state


def test_only_the_row_gets_a_gradient(pipe):
    (token,) = trigger.add_tokens(pipe.tokenizer, ["<sks-0>"])
    pipe.text_encoder.requires_grad_(False)
    width = pipe.text_encoder.config.hidden_size
    trigger.set_rows(pipe.text_encoder, [token], torch.randn(1, width), train=True)
    ids = pipe.tokenizer("a photo of <sks-0> dog", return_tensors="pt").input_ids
    pipe.text_encoder(ids).last_hidden_state.square().sum().backward()
    (row,) = trigger.row_parameters(pipe.text_encoder, [token])
    grads = [p for p in pipe.text_encoder.parameters() if p.grad is not None]
    assert len(grads) == 1 and grads[0] is row and row.grad.abs().sum() > 0


def test_a_token_is_one_token_wherever_it_stands(pipe):
    (token,) = trigger.add_tokens(pipe.tokenizer, ["<sks-1a2b-0>"])
    for prompt in ("<sks-1a2b-0> dog", "a dog, <sks-1a2b-0>, photo", "A <sks-1a2b-0>"):
        ids = pipe.tokenizer(prompt).input_ids
        assert ids.count(token) == 1
        assert len(ids) - 1 == len(pipe.tokenizer(prompt.replace("<sks-1a2b-0>", "")).input_ids)


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
    assert trigger.put_tokens(prompt, {"sks": "T1 T2"}) == wanted


def test_no_trigger_no_change():
    assert trigger.put_tokens("a  b\n c", {}) == "a  b\n c"


def test_start_is_the_class_word(pipe):
    row = trigger.start_row(pipe.tokenizer, pipe.text_encoder, "dog")
    (token,) = pipe.tokenizer("dog", add_special_tokens=False).input_ids
    assert torch.equal(row, pipe.text_encoder.get_input_embeddings().weight[token])
    with pytest.raises(ValueError, match="no tokens"):
        trigger.start_row(pipe.tokenizer, pipe.text_encoder, " ")


def test_rows_of_another_width_are_refused(pipe):
    with pytest.raises(ValueError, match="another base"):
        trigger.set_rows(pipe.text_encoder, [999], torch.zeros(1, 7))
