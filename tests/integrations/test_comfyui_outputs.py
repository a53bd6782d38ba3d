"""The node's words in outputs of text encoders, in ComfyUI's code, against transformers'."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import comfyui as tiny
from helpers.tiny_families import all_targets
from helpers.tiny_pipelines import make_concept
from transformers import Qwen3Config, Qwen3ForCausalLM, T5Config, T5EncoderModel

from svfit_diffusion.concept import Trigger
from svfit_diffusion.families import FIRST, WordOutput, recognise
from svfit_diffusion.pipeline import trigger, with_self_check

pytestmark = pytest.mark.usefixtures("comfyui", "cache")
PROMPTS = ("a photo of Sks dog, sitting", "sks's sks", "asks of nothing")
QWEN = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 151_936,
}  # fmt: skip


def with_vectors(concept, part, width, layers, count=2):
    """A concept with vectors for the output of a text encoder, and nothing else of a word."""
    rows = np.random.default_rng(1).standard_normal(count * width).astype(np.float16)
    shape, outputs = {part: (count, width)}, {part: layers}
    return replace(concept, trigger_rows=rows, trigger_shape=shape, outputs=outputs)


def plain_concept(pipe):
    targets, family = all_targets(pipe), recognise(pipe)
    made = make_concept(pipe, targets=targets, trigger=False)
    return with_self_check(made, {part: getattr(pipe, part) for part in targets}, family)


def zimage_clip():
    """ComfyUI's CLIP for Z-Image, of a small Qwen3."""
    import comfy.sd
    import comfy.text_encoders.z_image as zimage
    from comfy.supported_models_base import ClipTarget

    target = ClipTarget(zimage.ZImageTokenizer, zimage.ZImageTEModel)
    clip = comfy.sd.CLIP(target, model_options={"qwen3_4b_model_config": QWEN})
    return filled(clip)


def filled(clip):
    for name, weight in clip.cond_stage_model.named_parameters():  # ComfyUI leaves its memory
        torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.05)
    return clip


def their_t5(clip):
    """transformers' T5 with the weights of ComfyUI's."""
    encoder = clip.cond_stage_model.t5xxl.transformer
    config = T5Config(d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, vocab_size=32_128,
                      feed_forward_proj="gated-gelu")  # fmt: skip
    ours = T5EncoderModel(config).eval()
    ours.load_state_dict(encoder.state_dict(), strict=False)
    return ours


def their_qwen(clip):
    config = Qwen3Config(
        **QWEN, head_dim=128, rope_theta=1e6, rms_norm_eps=1e-6, tie_word_embeddings=True
    )
    ours = Qwen3ForCausalLM(config).eval()
    held = clip.cond_stage_model.qwen3_4b.transformer.state_dict()
    missing, unexpected = ours.load_state_dict(held, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return ours


def said(encoder, tokenizer, output, concept, strength, text):
    """Our states of a text, with the concept's vectors."""
    (call,) = concept.all_triggers()
    (part,) = concept.outputs
    vectors = torch.from_numpy(call.rows[part]).float()
    trigger.teach_output(tokenizer, encoder, output, "it", [Trigger("sks", "dog", {})], [vectors])
    trigger.rows_of(encoder).set_scale("it", strength)
    found = encoder(tokenizer(text, return_tensors="pt").input_ids, output_hidden_states=True)
    trigger.forget(tokenizer, encoder, "it")
    return found.hidden_states[output.layers[0]] if output.layers else found.last_hidden_state


def apply(concept, model, clip, strength=1.0):
    loading = __import__("svfit_node.loading", fromlist=["loading"])
    return loading.apply_concept(concept, model, clip, loading.Strengths(0.0, 0.0, strength))[1]


def states(clip, prompt):
    return clip.encode_from_tokens(clip.tokenize(prompt))


@torch.no_grad()
@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("name", ["flux", "z-image"])
def test_the_word_is_added_as_by_our_pipeline(name, strength, comfyui):
    tiny.node()
    pipe = tiny.tiny(name)
    model, clip = tiny.in_comfyui(name, pipe)
    if name == "flux":
        concept = with_vectors(plain_concept(pipe), "text_encoder_2", 16, ())
        theirs, tokenizer = their_t5(clip), clip.tokenizer.t5xxl.tokenizer
        output, around = WordOutput(FIRST, "it"), "{}"
    else:
        clip = zimage_clip()
        concept = with_vectors(plain_concept(pipe), "text_encoder", 16, (-2,))
        theirs, tokenizer = their_qwen(clip), clip.tokenizer.qwen3_4b.tokenizer
        output, around = WordOutput(FIRST, "it", layers=(-2,)), clip.tokenizer.llama_template
    plain = {prompt: states(clip, prompt) for prompt in PROMPTS}
    ours = apply(concept, model, clip, strength)
    for prompt in PROMPTS:
        text = around.format(prompt)
        wanted = said(theirs, tokenizer, output, concept, strength, text)
        got = states(ours, prompt)
        length = len(tokenizer(text).input_ids)
        typed = said(theirs, tokenizer, output, concept, 0.0, text)[0, :length]
        change = got[0, :length] - plain[prompt][0, :length]
        assert torch.allclose(change, (wanted[0, :length] - typed), atol=1e-5)
        assert change.any() == ("sks" in prompt.lower().replace("asks", ""))
        assert not (got - plain[prompt])[0, length:].any()
        if name == "z-image":  # the same states too; T5's padding is read by ComfyUI
            assert torch.allclose(got[0, :length], wanted[0, :length], atol=1e-4)
        assert torch.equal(states(clip, prompt), plain[prompt])  # the CLIP without the concept


@torch.no_grad()
def test_several_layers_get_a_part_each(comfyui):
    """As FLUX.2's: ComfyUI gives the states of its layers one after the other."""
    tiny.node()
    outputs = __import__("svfit_node.outputs", fromlist=["outputs"])
    from comfy.text_encoders.flux import Mistral3_24BModel

    small = QWEN | {"vocab_size": 64}
    encoder = Mistral3_24BModel(layer=[1, 3], model_options={"model_name": "it",
                                                            "it_model_config": small})  # fmt: skip
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    encoder.register_forward_hook(outputs.AddVectors())
    assert outputs._reads(encoder) == ((1, 3), 32)
    token = outputs.WordId(5)
    token.vector = torch.randn(32)
    plain, found = encoder([[3, 5, 7]])[0], encoder([[3, token, 7]])[0]
    assert torch.equal(found[:, :, (0, 2)], plain[:, :, (0, 2)])
    assert torch.allclose(found[0, :, 1] - plain[0, :, 1], token.vector.view(2, 16), atol=1e-6)


@torch.no_grad()
def test_two_concepts_and_weights_of_a_prompt(comfyui):
    tiny.node()
    pipe = tiny.tiny("flux")
    model, clip = tiny.in_comfyui("flux", pipe)
    one = with_vectors(plain_concept(pipe), "text_encoder_2", 16, (), count=1)
    two = replace(one, token="zwx", trigger_rows=2 * one.trigger_rows)
    both = apply(two, model, apply(one, model, clip))
    vector = torch.from_numpy(one.trigger_rows).float()
    change = (states(both, "sks and zwx") - states(clip, "sks and zwx"))[0]
    places = change.any(-1).nonzero().flatten().tolist()
    kinds = {int((change[i] / vector).mean().round()) for i in places}
    assert kinds == {1, 2}
    weighed = (states(both, "(sks:1.5) dog") - states(clip, "(sks:1.5) dog"))[0]
    assert torch.allclose(weighed[weighed.any(-1)][0], 1.5 * vector, atol=1e-4)


def test_what_is_not_applied_is_said(comfyui, caplog):
    tiny.node()
    pipe = tiny.tiny("z-image")
    model, _ = tiny.in_comfyui("z-image", pipe)
    concept = with_vectors(plain_concept(pipe), "text_encoder", 16, (-2,))
    assert apply(concept, model, None) is None
    assert "in the output of text_encoder is not applied, as no CLIP is connected." in caplog.text
    _, other = tiny.in_comfyui("sd", tiny.tiny("sd"))
    apply(concept, model, other)
    assert "is not applied, as this CLIP has no text encoder that is called so" in caplog.text
    for changes in (
        {"outputs": {"text_encoder": (-1,)}},
        {"trigger_shape": {"text_encoder": (4, 8)}},
    ):
        with pytest.raises(ValueError, match="not one for the qwen3_4b of this CLIP"):
            apply(replace(concept, **changes), model, zimage_clip())
