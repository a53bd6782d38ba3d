"""The node in ComfyUI's own code: edits, words and refusals, against diffusers with the concept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import comfyui as tiny
from helpers.tiny_families import all_targets
from helpers.tiny_pipelines import make_concept

from svfit_diffusion import fuse_concepts, load_concept
from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline import with_self_check

pytestmark = pytest.mark.usefixtures("comfyui", "cache")
FAMILIES = tuple(tiny.CONFIGS)


def concept_of(pipe, seed=0, token="sks", learned=True):
    """A concept on all parts, with rows for every encoder that may learn a word."""
    targets, family = all_targets(pipe), recognise(pipe)
    made = make_concept(pipe, seed=seed, targets=targets, token=token, trigger=False)
    encoders = [e.model for e in family.encoders] if learned else []
    widths = {part: getattr(pipe, part).config.hidden_size for part in encoders}
    if widths:
        random = np.random.default_rng(seed)
        rows = 0.05 * random.standard_normal(2 * sum(widths.values()))
        shape = {part: (2, width) for part, width in widths.items()}
        made = replace(made, trigger_rows=rows.astype(np.float16), trigger_shape=shape)
    return with_self_check(made, {part: getattr(pipe, part) for part in targets}, family)


def apply(concept, model, clip, strengths=(1.0, 1.0, 1.0), **more):
    loading = __import__("svfit_node.loading", fromlist=["loading"])
    return loading.apply_concept(concept, model, clip, loading.Strengths(*strengths), **more)


def patched(held):
    """Key -> weight of a MODEL or CLIP, patched by ComfyUI, which is undone afterwards."""
    patcher = getattr(held, "patcher", held)
    patcher.unpatch_model()
    patcher.patch_model()
    weights = {key: weight.clone() for key, weight in patcher.model.state_dict().items()}
    patcher.unpatch_model()
    return weights


def dense(name, pipe, concept, strength=1.0):
    """ComfyUI's key -> weight of our pipeline with the concept fused into it."""
    family = recognise(pipe)
    load_concept(pipe, replace(concept, trigger_rows=None, trigger_shape={}), strength)
    fuse_concepts(pipe)
    prefix, weights = "diffusion_model.", {}
    denoiser = getattr(pipe, family.denoiser)
    for local, address in tiny.addresses(name, pipe).items():
        key, rows = (address, None) if isinstance(address, str) else address[:2]
        weights[prefix + key, rows] = denoiser.get_submodule(local).base_layer.weight.data
    for part, encoder in tiny.ENCODERS.get(name, {}).items():
        for local, module in getattr(pipe, part).named_modules():
            if hasattr(module, "base_layer") and "self_attn" in local:
                plain = local.removeprefix("text_model.")
                key = f"{encoder}.transformer.text_model.{plain}.weight"
                weights[key, None] = module.base_layer.weight.data
    return weights


@pytest.mark.parametrize("name", FAMILIES)
def test_patched_weights_are_our_dense_edit(name, comfyui):
    tiny.node()
    pipe = tiny.tiny(name)
    concept = concept_of(pipe)
    model, clip = tiny.in_comfyui(name, pipe)
    base = patched(model) | (patched(clip) if clip else {})
    ours, our_clip = apply(concept, model, clip, (0.7, 0.7, 1.0))
    found = patched(ours) | (patched(our_clip) if clip else {})
    wanted = dense(name, pipe, concept, 0.7)
    assert len(wanted) == len(concept.ranks)
    changed = set()
    for (key, rows), weight in wanted.items():
        got = found[key] if rows is None else found[key].narrow(*rows)
        was = base[key] if rows is None else base[key].narrow(*rows)
        edit = (weight - was).norm()
        assert edit > 0
        assert (got - weight).norm() / edit < 1e-5, key
        changed.add(key)
    for key in set(base) - changed:
        assert torch.equal(found[key], base[key]), key


def encoded(name, clip, prompt):
    """ComfyUI's conditioning of a prompt and its pooled vector."""
    found, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
    return (found, pooled) if name != "flux" else (pooled, pooled)  # the rest of it is T5's


def our_encoded(name, pipe, prompt):
    """The same of our pipeline."""
    family = recognise(pipe)
    ids = family.tokenize(pipe, [prompt])
    if name == "flux":
        pooled = pipe.text_encoder(ids[0]).pooler_output
        return pooled, pooled
    if name == "sd":
        output = pipe.text_encoder(ids[0])
        return output.last_hidden_state, output.pooler_output
    models = (pipe.text_encoder, pipe.text_encoder_2)
    outputs = [m(i, output_hidden_states=True) for m, i in zip(models, ids, strict=True)]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], -1)
    pooled = [output.text_embeds if hasattr(output, "text_embeds") else None for output in outputs]
    return hidden, pooled[1] if name == "sdxl" else torch.cat(pooled, -1)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
@torch.no_grad()
def test_the_learned_word_is_read_as_by_our_pipeline(name, strength, comfyui):
    tiny.node()
    pipe = tiny.tiny(name)
    concept = concept_of(pipe)
    model, clip = tiny.in_comfyui(name, pipe)
    _, ours = apply(concept, model, clip, (strength,) * 3)
    load_concept(pipe, concept, strength)
    for prompt in ("a photo of Sks dog, (sitting) on a beach", "sks's sks", "no word of it, sks_x"):
        plain = prompt.replace("(", "").replace(")", "")
        for got, wanted in zip(
            encoded(name, ours, plain), our_encoded(name, pipe, plain), strict=True
        ):
            wanted = wanted[..., : got.shape[-1]]
            got = got[..., : wanted.shape[-1]]
            assert (got - wanted).abs().max() < 2e-5 * wanted.abs().max()
    assert (encoded(name, clip, "sks")[0] - encoded(name, ours, "sks")[0]).abs().max() > 1e-3
    if hasattr(clip.tokenizer, "t5xxl"):
        assert ours.tokenize("sks dog")["t5xxl"] == clip.tokenize("sks dog")["t5xxl"]
    weighed = ours.tokenize("a (sks:1.3) dog")["l"][0]
    assert [weight for token, weight in weighed if torch.is_tensor(token)] == [1.3, 1.3]


def test_a_word_strength_of_zero_is_the_class_word(comfyui):
    tiny.node()
    pipe = tiny.tiny("sd")
    concept = concept_of(pipe)
    model, clip = tiny.in_comfyui("sd", pipe)
    _, ours = apply(concept, model, clip, (0.0, 0.0, 0.0))
    token, _ = ours.tokenize("sks")["l"][0][1]
    dog = pipe.tokenizer("dog", add_special_tokens=False).input_ids
    assert torch.equal(token, pipe.text_encoder.get_input_embeddings().weight[dog[0]])


def lora_of(key, weight):
    from comfy.weight_adapter import LoRAAdapter

    down = torch.ones(1, weight.shape[1])
    return {key: LoRAAdapter(set(), (torch.ones(len(weight), 1), down, None, None, None, None))}


@pytest.mark.parametrize("held", ["model", "clip"])
def test_weights_that_a_lora_was_merged_into_are_seen_as_published(held, comfyui):
    """Of a model that another branch of the graph has patched and loaded."""
    tiny.node()
    pipe = tiny.tiny("sd")
    concept = concept_of(pipe)
    model, clip = tiny.in_comfyui("sd", pipe)
    patcher = model if held == "model" else clip.patcher
    key = next(
        k for k in patcher.model.state_dict() if k.endswith(("to_q.weight", "q_proj.weight"))
    )
    other = patcher.clone()
    other.add_patches(lora_of(key, patcher.model.state_dict()[key]))
    other.unpatch_model()
    other.patch_model()
    assert patcher.backup
    ours, our_clip = apply(concept, model, clip)
    other.unpatch_model()
    wanted = dense("sd", pipe, concept)
    found = patched(ours) | patched(our_clip)
    assert all((found[k] - w).abs().max() < 1e-5 for (k, _), w in wanted.items())


def test_low_vram_models_give_the_same_edit(comfyui):
    """Where ComfyUI patches a weight only while it is used."""
    tiny.node()
    pipe = tiny.tiny("sd")
    model, clip = tiny.in_comfyui("sd", pipe)
    model.load(torch.device("cpu"), lowvram_model_memory=1)
    assert model.model.model_lowvram
    concept = concept_of(pipe)
    ours, _ = apply(concept, model, clip)
    model.unpatch_model()
    ours.load(torch.device("cpu"), lowvram_model_memory=1)
    wanted = dense("sd", pipe, concept)
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    linear = ours.model.get_submodule(key)
    (function,) = linear.weight_function
    assert (function(linear.weight.clone()) - wanted[f"{key}.weight", None]).abs().max() < 1e-5


def cast(held, dtype):
    """The weights of a model as another precision holds them."""
    for key, weight in held.model.state_dict().items():
        if weight.ndim == 2:
            __import__("comfy.utils", fromlist=["utils"]).set_attr_param(
                held.model, key, weight.to(dtype)
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_model_in_fewer_bits_takes_the_basis_of_the_published_one(dtype, comfyui):
    tiny.node()
    pipe = tiny.tiny("sd")
    concept = concept_of(pipe)
    model, clip = tiny.in_comfyui("sd", pipe)
    rounded, _ = tiny.in_comfyui("sd", pipe)
    cast(rounded, dtype)
    if dtype == torch.float8_e4m3fn:
        with pytest.raises(ValueError, match="the unet was loaded in fewer than 16 bits, .* once"):
            apply(concept, rounded, clip)
    exact, _ = apply(concept, model, clip)
    found, _ = apply(concept, rounded, clip)
    assert exact.patches.keys() == found.patches.keys()
    for key, patches in exact.patches.items():
        for ours, theirs in zip(patches, found.patches[key], strict=True):
            assert torch.equal(ours[1].weights[0], theirs[1].weights[0])
    other, _ = tiny.in_comfyui("sd", tiny.tiny("sd", seed=1))
    cast(other, dtype)
    with pytest.raises(ValueError, match="the unet that is connected has other weights"):
        apply(concept, other, clip)


def test_a_fine_tuned_model_takes_the_basis_of_its_base(comfyui):
    tiny.node()
    pipe = tiny.tiny("sd")
    concept = concept_of(pipe)
    base, clip = tiny.in_comfyui("sd", pipe)
    tuned, _ = tiny.in_comfyui("sd", tiny.tiny("sd", seed=1))
    with pytest.raises(ValueError, match="connect 'tiny' to basis_model"):
        apply(concept, tuned, clip)
    ours, _ = apply(concept, base, clip)
    found, _ = apply(concept, tuned, clip, basis_model=base)
    assert found.is_clone(tuned)
    for key, patches in ours.patches.items():
        assert torch.equal(patches[0][1].weights[1], found.patches[key][0][1].weights[1])


def test_other_strengths_need_no_new_decomposition(comfyui, monkeypatch):
    tiny.node()
    pipe = tiny.tiny("sd")
    concept = concept_of(pipe)
    model, clip = tiny.in_comfyui("sd", pipe)
    apply(concept, model, clip)

    def factored(*_):
        raise AssertionError("a basis was computed again")

    monkeypatch.setattr("svfit_diffusion.adapter.cache.factorize_all", factored)
    monkeypatch.setattr("svfit_diffusion.adapter.cache.Source.fingerprint", factored)
    apply(concept, model, clip, (0.3, 0.4, 0.5))


def test_refusals_are_one_sentence(comfyui):
    tiny.node()
    pipe, xl = tiny.tiny("sd"), tiny.tiny("sdxl")
    concept = concept_of(pipe)
    model, clip = tiny.in_comfyui("sd", pipe)
    xl_model, xl_clip = tiny.in_comfyui("sdxl", xl)
    other_model, other_clip = tiny.in_comfyui("sd", tiny.tiny("sd", seed=1))
    broken = replace(concept, check=tuple(2 * c + 1 for c in concept.check))
    wide = replace(
        concept, trigger_rows=np.zeros(2 * 16, np.float16), trigger_shape={"text_encoder": (2, 16)}
    )
    shape = replace(concept, layout="0" * 32)
    _, taught = apply(concept, model, clip)
    cases = {
        "of family 'sd', but the model is of family 'sdxl'": (concept, xl_model, xl_clip),
        "changes 'text_encoder', but no CLIP is connected": (concept, model, None),
        "the unet that is connected has other weights": (concept, other_model, clip),
        "the text_encoder that is connected has other weights": (concept, model, other_clip),
        "self-check fails": (broken, model, clip),
        "learned word is not one for": (wide, model, clip),
        "projections are not those of the model": (shape, model, clip),
        "both called by 'sks'": (concept, model, taught),
    }
    for reason, given in cases.items():
        with pytest.raises(ValueError, match=reason) as raised:
            apply(*given)
        assert str(raised.value).endswith(".") and "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="the strength is nan"):
        apply(concept, model, clip, (float("nan"), 1.0, 1.0))
