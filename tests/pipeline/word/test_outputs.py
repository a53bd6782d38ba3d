"""A learned word in the output of text encoders that are not trained through, in every family.

The tiny pipelines' tokenizers read single letters there, so "sks" has three tokens, or four with
the mark that T5 puts before a word.
"""

import copy
import functools

import pytest
import torch
from helpers.tiny_families import TINY
from helpers.tiny_pipelines import picture
from safetensors.torch import load_file
from transformers import ProcessorMixin

from svfit_diffusion.concept import Trigger
from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline import class_difference, read_prompt, trigger
from svfit_diffusion.pipeline.model_methods import install_methods, uninstall_methods
from svfit_diffusion.pipeline.prompts import prompt_length, warn_split_trigger
from svfit_diffusion.pipeline.word import rows_of, with_vector

CPU = torch.device("cpu")


class Processor(ProcessorMixin):
    """A processor of text alone."""

    def __init__(self, tokenizer, **more):
        super().__init__(tokenizer, **more)


PROMPT = "a photo of sks dog"
# the families that put words around a prompt: a chat template, or an instruction
AROUND = {"flux2-klein", "flux2", "z-image", "qwen-image", "krea-2", "ideogram-4", "lumina2"}


@functools.cache
def made(name):
    pipe = TINY[name]()
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def _named(param):
    name, number = param
    return f"{name}, second" if number else name


@pytest.fixture(params=[*((name, 0) for name in TINY), ("hidream", 1)], ids=_named)
def base(request):
    """A family's tiny pipeline and the output that learns words, by its number."""
    name, number = request.param
    pipe = made(name)
    family = recognise(pipe)
    if not (outputs := family.outputs(pipe)):
        pytest.skip("its text encoders are trained through")
    assert len(outputs) == (2 if name == "hidream" else 1)
    found = pipe, family, [*outputs.values()][number]
    yield found
    for adapter in ("rex", "max"):  # also where a test has failed
        forget(found, adapter)


def tokens_of(base, word="sks"):
    """How many tokens the base reads a word in."""
    reader = base[1].word_tokenizers(base[0])[base[2].encoder.model]
    return len(reader(word, add_special_tokens=False).input_ids)


def family_length(base):
    """A number of letters that fills what the base reads."""
    return base[1].prompt_tokenizers(base[0])[-1].length


def taught(base, adapter="rex", word="sks", count=1, train=False):
    """Vectors [count, width] in the output's text encoder; `forget` takes them out."""
    pipe, family, output = base
    encoder = getattr(pipe, output.encoder.model)
    vectors = torch.randn(count, trigger.output_width(encoder, output)) * 0.3
    reader = family.word_tokenizers(pipe)[output.encoder.model]
    call = Trigger(word, "dog", {})
    trigger.teach_output(reader, encoder, output, adapter, [call], [vectors], train)
    return vectors


def forget(base, adapter="rex"):
    pipe, family, output = base
    part = output.encoder.model
    trigger.forget(family.word_tokenizers(pipe)[part], getattr(pipe, part), adapter)


@torch.no_grad()
def states(base, *prompts):
    pipe, family, output = base
    return family.encode_frozen(pipe, list(prompts), CPU)[output.states]


def added_at(base, typed, prompt, vectors, tokens):
    """At so many tokens in a row, the states are those as typed plus the vectors."""
    found = states(base, prompt)[0]
    there = (found != typed[0]).any(-1).nonzero().flatten().tolist()
    assert there == list(range(there[0], there[0] + tokens)) if tokens else not there
    for i, place in enumerate(there):
        vector = vectors[min(i, len(vectors) - 1)]
        assert torch.equal(found[place], typed[0, place] + vector)


def tokens_heard(base, text):
    """At how many tokens of a prompt a word is added."""
    typed = states(base, text)
    taught(base)
    found = int((states(base, text) != typed).any(-1).sum())
    forget(base)
    return found


def test_the_states_of_the_words_tokens_get_the_vector(base):
    count = tokens_of(base)
    texts = {PROMPT: count, "SKS, a dog": count, "a dog that asks": 0, "a dog": 0}
    typed = {text: states(base, text) for text in texts}
    for rows in (1, 2):
        vectors = taught(base, count=rows)
        for text, tokens in texts.items():
            added_at(base, typed[text], text, vectors, tokens)
        forget(base)
    assert all(torch.equal(states(base, text), typed[text]) for text in texts)


def test_twice_and_in_a_batch(base):
    """Each prompt of a batch as alone."""
    texts = ("sks and sks", "a dog", "a sks" + " x" * 9)
    typed = [states(base, text) for text in texts]
    taught(base)
    for text, times in (("sks", 1), ("sks and sks", 2)):
        found, plain = states(base, text)[0], read_prompt(*base[:2], text, CPU)[0]
        changed = (found != plain[base[2].states][0]).any(-1)
        assert changed.sum() == times * tokens_of(base)
    together = states(base, *texts)
    for i, text in enumerate(texts):
        alone = states(base, text)
        mine, padding = together[i].split([alone.shape[1], together.shape[1] - alone.shape[1]])
        assert torch.allclose(mine, alone[0], atol=1e-5) and not padding.any()
        assert torch.equal(alone, typed[i]) == ("sks" not in text)
    forget(base)


def test_cut_at_the_end(base):
    """A word beyond what the base reads is not heard, one that is cut in two is heard as far as it
    is read.
    """
    if base[1].name == "ideogram-4":
        pytest.skip("its pipeline refuses a prompt that is too long, and cuts none")
    reads, text = [], "x" * family_length(base) + " sks"
    ends = iter([*range(0, 400, 8)])  # ever fewer letters before the word
    for end in ends:
        reads.append(tokens_heard(base, text[end:]))
        if reads[-1] == tokens_of(base):
            break
    reads += [tokens_heard(base, text[i:]) for i in range(end - 7, end)]
    assert reads[0] == 0 and set(reads) >= {0, 1, 2, tokens_of(base)}


def test_strengths_multiply_it_and_two_words_add(base):
    """At strength 0 and out of use the states are those as typed, to the bit."""
    pipe, _, output = base
    text = "sks and zwx"
    typed = states(base, text)
    one, two = taught(base), taught(base, "max", "zwx")
    rows = rows_of(getattr(pipe, output.encoder.model))
    both = states(base, text) - typed
    rows.set_scale("rex", 0.5)
    half = states(base, text) - typed
    first, second = both.any(-1), both.any(-1) & (half == both).all(-1)
    assert first.sum() == 2 * second.sum() == 2 * tokens_of(base)
    assert torch.allclose(both[second], two.expand_as(both[second]), atol=1e-5)
    assert torch.allclose(half[first & ~second], 0.5 * one.expand_as(both[second]), atol=1e-5)
    rows.set_scale("rex", 0.0)
    rows.set_scale("max", 0.0)
    assert torch.equal(states(base, text), typed)
    rows.set_scale("rex", 1.0)
    rows.set_adapter(["rex"])
    assert ((states(base, text) != typed).any(-1) == (first & ~second)).all()
    forget(base)
    assert torch.equal(states(base, text), typed)
    forget(base, "max")


def test_a_training_adds_the_same_and_no_gradient_meets_the_encoder(base):
    """What a training keeps of a prompt, with the vector, is what the text encoder says."""
    pipe, family, output = base
    taught(base, train=True, count=2)
    encoder = getattr(pipe, output.encoder.model)
    rows = torch.stack(trigger.row_parameters(encoder, "rex"))
    for text in ("sks dog, sks", "a dog"):
        frozen, places = read_prompt(pipe, family, text, CPU)
        numbers = places[output.states]
        picked = rows[(numbers - 1).clamp(min=0)]
        made = with_vector(frozen[output.states], numbers > 0, picked)
        assert torch.equal(made, states(base, text)) and made.requires_grad
        assert numbers.max() == (2 if "sks" in text else 0)
    with_vector(frozen[output.states], numbers == 0, rows[0]).sum().backward()
    grads = [p.grad for name, p in encoder.named_parameters() if "svfit" not in name]
    assert all(grad is None for grad in grads)
    assert trigger.row_parameters(encoder, "rex")[0].grad.any()
    forget(base)


def test_it_starts_where_the_word_reads_as_its_class(base):
    pipe, family, output = base
    part = output.encoder.model
    start, size = class_difference(pipe, family, part, "sks", "big dog")
    means = []
    for word in ("sks", "big dog"):
        taught(base, word=word)
        frozen, places = read_prompt(pipe, family, f"a photo of {word}", CPU)
        means.append(frozen[output.states][places[output.states] > 0].mean(0))
        forget(base)
    assert torch.allclose(means[0] + start, means[1], atol=1e-5) and start.any()
    assert 0 < size < 10 * means[1].abs().max()
    if "▁" in family.word_tokenizers(pipe)[part].get_vocab():  # T5 reads no blanks at the end
        with pytest.raises(ValueError, match="no tokens of ' '"):
            class_difference(pipe, family, part, "sks", " ")


def test_a_word_that_the_base_puts_around_a_prompt_is_refused(base):
    """Where the denoiser reads it: Sana's instruction is cut off again."""
    pipe, family, output = base
    said = pipe, family, output.encoder.model, "User", "dog"
    if family.name not in AROUND:
        assert class_difference(*said)[0].any()
        return
    with pytest.raises(ValueError, match="'User' is one of the words that this base puts around"):
        class_difference(*said)


def test_copies_and_other_pipelines_hear_it(base):
    """Whoever holds the text encoder and its tokenizer; a saved encoder is the base's."""
    pipe, family, output = base
    typed = states(base, PROMPT)
    taught(base)
    said = states(base, PROMPT)
    parts = {name: part for name, part in pipe.components.items() if "image" not in name}
    other = type(pipe)(**parts)
    own = {name: part for name, part in parts.items() if name.startswith(("text_", "token"))}
    copied = copy.deepcopy(own)
    with torch.no_grad():
        assert torch.equal(family.encode_frozen(other, [PROMPT], CPU)[output.states], said)
        third = type(pipe)(**parts | copied)
        assert torch.equal(family.encode_frozen(third, [PROMPT], CPU)[output.states], said)
        forget(base)
        assert torch.equal(family.encode_frozen(third, [PROMPT], CPU)[output.states], said)
        assert torch.equal(states(base, PROMPT), typed) and not torch.equal(said, typed)
    reader, encoder = (
        family.word_tokenizers(pipe)[output.encoder.model],
        parts[output.encoder.model],
    )
    assert not any("svfit" in name for name, _ in encoder.named_modules())
    for module in encoder.modules():  # transformers has hooks of its own
        hooks = {*module._forward_pre_hooks.values(), *module._forward_hooks.values()}
        owners = {type(getattr(hook, "__self__", hook)).__module__ for hook in hooks}
        assert not any(owner.startswith("svfit_diffusion") for owner in owners)
    assert not hasattr(reader, "_svfit_rows") and "Tags" not in str(type(reader).__mro__)


def test_a_tagged_word_is_still_the_word(base):
    pipe, family, output = base
    reader = family.word_tokenizers(pipe)[output.encoder.model]
    nothing = reader("", add_special_tokens=False).input_ids
    plain = reader.tokenize("sks dog"), reader.decode(reader("sks dog").input_ids)
    taught(base)
    ids = reader("sks dog").input_ids
    assert max(ids) > len(reader)
    assert reader("", add_special_tokens=False).input_ids == nothing == []
    assert reader.tokenize("sks dog") == plain[0] and reader.decode(ids) == plain[1]
    assert reader.convert_ids_to_tokens(ids[0]) in reader.get_vocab()
    forget(base)
    assert max(reader("sks dog").input_ids) < len(reader)


def test_a_fused_word_stays_and_a_saved_encoder_says_that_it_lacks_it(base, tmp_path, caplog):
    pipe, _, output = base
    encoder = getattr(pipe, output.encoder.model)
    typed = states(base, PROMPT)
    taught(base)
    said, rows = states(base, PROMPT), rows_of(encoder)
    rows.merge(adapter_names=["rex"])
    assert rows.merged and torch.equal(states(base, PROMPT), said)
    install_methods(encoder)
    encoder.save_pretrained(tmp_path)
    uninstall_methods(encoder)
    assert "without the learned word sks, which is added to its output" in caplog.text
    assert not any("svfit" in key for key in load_file(tmp_path / "model.safetensors"))
    rows.unmerge()
    forget(base)
    assert torch.equal(states(base, PROMPT), typed)


def test_a_tokenizer_inside_a_processor_is_taught():
    """FLUX.2 dev's is one; here without pictures, which need other packages."""
    pipe = TINY["flux2"]()
    base = pipe, recognise(pipe), recognise(pipe).word_outputs[0]
    alone = taught(base)
    said = states(base, PROMPT)
    forget(base)
    template = pipe.tokenizer.chat_template
    pipe.tokenizer = Processor(pipe.tokenizer, chat_template=template)
    taught(base)
    trigger.row_parameters(pipe.text_encoder, "rex")[0].data.copy_(alone[0])
    assert torch.equal(states(base, PROMPT), said)
    assert prompt_length(pipe, "sks dog").tokens == 7
    assert not warn_split_trigger(pipe, "sks", learned=True)


def test_pictures_of_the_familys_own_pipeline_hear_it(base):
    def drawn(text):
        return picture(base[0], text, width=32, height=32)

    texts = ("sks dog", "a dog")
    typed = [drawn(text) for text in texts]
    taught(base)
    assert not torch.equal(drawn(texts[0]), typed[0]) and torch.equal(drawn(texts[1]), typed[1])
    forget(base)
    assert torch.equal(drawn(texts[0]), typed[0])


def test_layers_without_the_word_are_not_read_in_silence():
    """FLUX.2's pipeline lets a caller choose the layers: those of the word, or a sentence."""
    base = (
        (pipe := made("flux2-klein")),
        (family := recognise(pipe)),
        [*family.outputs(pipe).values()][0],
    )
    layers = base[2].layers
    others = tuple(layer - 1 for layer in layers)
    plain = pipe.encode_prompt(PROMPT, text_encoder_out_layers=others)[0]
    taught(base)
    try:
        with pytest.raises(ValueError, match="leave out the argument that chooses layers"):
            pipe.encode_prompt(PROMPT, text_encoder_out_layers=others)
        unheard = pipe.encode_prompt("a photo of a dog", text_encoder_out_layers=others)[0]
        heard = pipe.encode_prompt(PROMPT, text_encoder_out_layers=layers)[0]
    finally:
        forget(base)
    assert unheard.shape[-1] == heard.shape[-1] == plain.shape[-1]
    assert torch.equal(pipe.encode_prompt(PROMPT, text_encoder_out_layers=others)[0], plain)
