"""Exported files in InvokeAI's own code: what is patched is our edit, and the word is found."""

import sys
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_pipelines import make_concept, make_pipeline
from safetensors.torch import load_file

from svfit_diffusion import export_lora, fuse_concepts, load_concept

from .conftest import checkout
from .test_sd_scripts import FLUX, Named, made, weight_of


@pytest.fixture(scope="module", autouse=True)
def invokeai():
    """InvokeAI, importable in this process; its model manager first, for its imports' sake."""
    path = checkout("INVOKEAI", "invokeai")
    sys.path.insert(0, str(path))
    import invokeai.backend.model_manager.load  # noqa: F401

    yield path
    sys.path.remove(str(path))


def flux(pipe):
    """InvokeAI's FLUX with the pipeline's attention weights."""
    from invokeai.backend.flux.model import Flux, FluxParams

    torch.manual_seed(0)  # of all other weights
    model = Flux(
        FluxParams(
            in_channels=16, vec_in_dim=32, context_in_dim=32, hidden_size=32, mlp_ratio=4.0,
            num_heads=2, depth=1, depth_single_blocks=1, axes_dim=[4, 6, 6], theta=10_000,
            qkv_bias=True, guidance_embed=True,
        )
    )  # fmt: skip
    for key, names in FLUX.items():
        weights = [weight_of(pipe.transformer, name) for name in names]
        model.get_submodule(key).weight.data.copy_(torch.cat(weights))
    return model


def linears(model):
    """Name -> weight of all Linears, with what was fused into them."""
    return {
        name.removesuffix(".base_layer"): module.weight.data.clone()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_what_is_patched_is_our_edit(name, tmp_path, monkeypatch):
    from invokeai.backend.patches.layer_patcher import LayerPatcher
    from invokeai.backend.patches.lora_conversions import flux_kohya_lora_conversion_utils as kohya
    from invokeai.backend.patches.lora_conversions import sd_lora_conversion_utils as plain

    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "bases"))
    pipe, concept, file = made(name, tmp_path)
    state = load_file(file)
    if name == "sd":
        patch = plain.lora_model_from_sd_state_dict(state)
        models = {"lora_unet_": pipe.unet, "lora_te_": Named(pipe.text_encoder)}
    else:
        assert kohya.is_state_dict_likely_in_flux_kohya_format(state)
        patch = kohya.lora_model_from_flux_kohya_state_dict(state)
        models = {"lora_transformer-": flux(pipe), "lora_clip-": Named(pipe.text_encoder)}
    assert len(patch.layers) == len({key.split(".")[0] for key in state})
    before = {prefix: linears(model) for prefix, model in models.items()}
    with ExitStack() as stack:
        for prefix, model in models.items():
            stack.enter_context(
                LayerPatcher.apply_smart_model_patches(
                    model, [(patch, 1.0)], prefix, torch.float32, force_direct_patching=True
                )
            )
        found = {prefix: linears(model) for prefix, model in models.items()}
    load_concept(pipe, concept)
    fuse_concepts(pipe)
    ours = [pipe.unet if name == "sd" else flux(pipe), Named(pipe.text_encoder)]
    changed = 0
    for prefix, model in zip(models, ours, strict=True):
        wanted = linears(model)
        for key, weight in wanted.items():
            edit = (weight - before[prefix][key]).norm()
            changed += bool(edit > 0)
            assert (found[prefix][key] - weight).norm() <= 1e-5 * edit, key
    assert changed == len(patch.layers)


def test_the_word_is_called_in_angle_brackets(tmp_path, monkeypatch):
    """As docs/formats.md says: by the name of the embedding's file, and in no other way."""
    from invokeai.app.util.ti_utils import extract_ti_triggers_from_prompt
    from invokeai.backend.textual_inversion import TextualInversionModelRaw

    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "bases"))
    pipe = make_pipeline()
    concept = replace(make_concept(pipe), token="Ärger (1)")
    made = export_lora(concept, pipe, tmp_path / "my dog, v2.safetensors")
    embedding = made.files[1]
    prompt = f"a photo of {made.calls['InvokeAI']}"
    assert extract_ti_triggers_from_prompt(prompt) == [f"<{embedding.stem}>"]
    assert not extract_ti_triggers_from_prompt(f"a photo of {embedding.stem}")
    rows = TextualInversionModelRaw.from_checkpoint(embedding).embedding
    assert np.array_equal(rows.numpy(), concept.rows()["text_encoder"].astype(np.float32))
