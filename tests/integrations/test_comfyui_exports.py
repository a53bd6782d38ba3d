"""Exported files in ComfyUI's own loading code: every key is read, the edit is ours, words too."""

import logging

import pytest
import torch
from helpers import comfyui as tiny
from safetensors.torch import load_file

from svfit_diffusion import export_lora

from .test_comfyui import FAMILIES, concept_of, dense, patched

pytestmark = pytest.mark.usefixtures("comfyui", "cache")


def exported(pipe, folder, kind="kohya", **more):
    """A concept of a pipeline and its files: the LoRA first."""
    concept = concept_of(pipe)
    made = export_lora(concept, pipe, folder / "rex.safetensors", kind, "float32", **more)
    return concept, made.files


def loaded(file, model, clip, caplog):
    """A MODEL and a CLIP with a LoRA; what ComfyUI did not read of it."""
    import comfy.sd
    import comfy.utils

    with caplog.at_level(logging.WARNING):
        found = comfy.sd.load_lora_for_models(
            model, clip, comfy.utils.load_torch_file(str(file), safe_load=True), 1.0, 1.0
        )
    said = [r.getMessage() for r in caplog.records]
    return *found, [text for text in said if "not loaded" in text.lower()]


@pytest.mark.parametrize("name", FAMILIES)
def test_all_keys_are_read_and_the_edit_is_ours(name, tmp_path, caplog):
    pipe = tiny.tiny(name)
    concept, files = exported(pipe, tmp_path)
    model, clip = tiny.in_comfyui(name, pipe)
    base = patched(model) | (patched(clip) if clip else {})
    model, clip, unread = loaded(files[0], model, clip, caplog)
    assert not unread
    found = patched(model) | (patched(clip) if clip else {})
    for (key, rows), weight in dense(name, pipe, concept).items():
        got, was = (w if rows is None else w.narrow(*rows) for w in (found[key], base[key]))
        assert (got - weight).norm() < 1e-5 * (weight - was).norm(), key


def test_diffusers_form_of_stable_diffusion_is_not_for_comfyui(tmp_path, caplog):
    """As docs/formats.md says."""
    pipe = tiny.tiny("sd")
    _, files = exported(pipe, tmp_path, "diffusers")
    *_, unread = loaded(files[0], *tiny.in_comfyui("sd", pipe), caplog)
    assert unread


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@torch.no_grad()
def test_the_embedding_is_called_as_documented(name, tmp_path, monkeypatch):
    pipe = tiny.tiny(name)
    concept, files = exported(pipe, tmp_path)
    model, clip = tiny.in_comfyui(name, pipe)
    for _, encoder in tiny.ENCODERS[name].items():
        reader = getattr(clip.tokenizer, encoder)
        reader.embedding_directory = str(tmp_path)
        reader.embedding_size = concept.rows()[
            next(part for part, e in tiny.ENCODERS[name].items() if e == encoder)
        ].shape[1]  # as wide as the tiny encoder
    call = "embedding:rex-sks dog"
    for part, encoder in tiny.ENCODERS[name].items():
        ids = clip.tokenize(f"a photo of {call}")[encoder.removeprefix("clip_")][0]
        rows = [token for token, _ in ids if torch.is_tensor(token)]
        assert torch.equal(
            torch.stack(rows).float(), torch.from_numpy(concept.rows()[part]).float()
        )


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_t5_loses_the_word_of_an_embeddings_name(name, tmp_path):
    """Why docs/formats.md asks for a node with a field for each encoder."""
    pipe = tiny.tiny(name)
    exported(pipe, tmp_path)
    clip = tiny.clip_of(name, pipe)
    clip.tokenizer.t5xxl.embedding_directory = str(tmp_path)
    read = {
        text: [token for token, _ in clip.tokenize(text)["t5xxl"][0] if not torch.is_tensor(token)]
        for text in ("a photo of embedding:rex-sks dog", "a photo of dog", "a photo of sks dog")
    }
    called, without, typed = read.values()
    assert called[:12] == without[:12] != typed[:12]  # what is of CLIP's width is ignored


def test_a_bundled_word_does_not_hinder_the_lora(tmp_path, caplog):
    pipe = tiny.tiny("sd")
    concept, files = exported(pipe, tmp_path, bundle=True)
    assert any(key.startswith("bundle_emb.sks.") for key in load_file(files[0]))
    model, clip, unread = loaded(files[0], *tiny.in_comfyui("sd", pipe), caplog)
    assert unread and all("bundle_emb" in text for text in unread)
    found = patched(model) | patched(clip)
    for (key, _), weight in dense("sd", pipe, concept).items():
        assert (found[key] - weight).abs().max() < 1e-5
