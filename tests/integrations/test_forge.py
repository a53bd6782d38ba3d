"""Exported files in Forge's own reading of LoRA files: every key is used, and the edit is ours."""

import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.comfyui import CONFIGS
from helpers.original_layout import original_state
from safetensors.torch import load_file

from svfit_diffusion import fuse_concepts, load_concept

from .conftest import checkout
from .test_sd_scripts import FLUX, Named, made, weight_of


@pytest.fixture(scope="module", autouse=True)
def forge():
    """Forge's reader, importable in this process."""
    path = checkout("FORGE", "packages_3rdparty")
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))


def weights(name, pipe):
    """Forge's key -> weight of a tiny pipeline, with what was fused into it: denoiser and CLIP."""
    if name == "flux":
        unet = {
            f"diffusion_model.{key}.weight": torch.cat([weight_of(pipe.transformer, n) for n in ns])
            for key, ns in FLUX.items()
        }
    else:
        plain = {key.replace(".base_layer", ""): w for key, w in pipe.unet.state_dict().items()}
        others = {"vae": pipe.vae, "text_encoder": pipe.text_encoder}
        held = SimpleNamespace(state_dict=lambda: plain, config=pipe.unet.config)
        held = original_state(SimpleNamespace(unet=held, **others))
        start = "model.diffusion_model."
        unet = {k.removeprefix("model."): w for k, w in held.items() if k.startswith(start)}
    clip = {}
    for part, encoder in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        if part == "text_encoder" or name == "sdxl":
            for key, weight in Named(getattr(pipe, part)).state_dict().items():
                key = key.replace(".base_layer", "")
                clip[f"{encoder}.transformer.{key}"] = weight
    return unet, {key: w for key, w in clip.items() if "svfit" not in key}


def read(name, file, unet, clip):
    """Forge's key -> (up, down, alpha, ...) of a file, and what it did not read."""
    from packages_3rdparty.comfyui_lora_collection import lora

    config = CONFIGS[name][1] if name != "flux" else {"hidden_size": 32}
    model = SimpleNamespace(
        state_dict=lambda: unet,
        diffusion_model=SimpleNamespace(config=config),
        config=SimpleNamespace(huggingface_repo=name),
    )
    _, keys = lora.model_lora_keys_unet(model, {})
    first, rest = lora.load_lora(load_file(file), keys)
    _, keys = lora.model_lora_keys_clip(SimpleNamespace(state_dict=lambda: clip), {})
    second, rest = lora.load_lora(rest, keys)
    return first | second, rest


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_all_keys_are_read_and_the_edit_is_ours(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "bases"))
    pipe, concept, file = made(name, tmp_path)
    unet, clip = weights(name, pipe)
    before = {key: weight.clone() for key, weight in (unet | clip).items()}
    patches, unread = read(name, file, unet, clip)
    assert not unread
    load_concept(pipe, concept)
    fuse_concepts(pipe)
    unet, clip = weights(name, pipe)
    after = unet | clip
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == set(patches)
    for key, (kind, (up, down, alpha, *_)) in patches.items():
        edit = after[key] - before[key]
        assert kind == "lora"
        assert (up @ down * alpha / len(down) - edit).norm() < 1e-5 * edit.norm(), key


def test_diffusers_form_of_stable_diffusion_is_not_for_forge(tmp_path, monkeypatch):
    """It drops a file with more than twelve unread keys."""
    from svfit_diffusion import export_lora

    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "bases"))
    pipe, concept, _ = made("sd", tmp_path)
    export_lora(concept, pipe, tmp_path / "other.safetensors", "diffusers")
    _, unread = read("sd", tmp_path / "other.safetensors", *weights("sd", pipe))
    assert len(unread) > 12
