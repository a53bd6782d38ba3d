"""The node in ComfyUI's own code: edits, words and refusals, against diffusers with the concept."""

import copy
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

pytestmark = pytest.mark.usefixtures("comfyui")
FAMILIES = tuple(tiny.CONFIGS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of bases of the test's own."""
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "bases"))


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
