"""With diffusers' own loaders, exported files give the same pictures as the concept."""

import base64
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.loras import XL
from helpers.tiny_families import TINY, all_targets
from helpers.tiny_pipelines import load, make_concept, make_pipeline, make_xl_pipeline, picture
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.concept.file import layout_hash, read_concept
from svfit_diffusion.families import load_base, recognise
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline import verification
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pipeline.matching import with_self_check
from svfit_diffusion.sharing.fused_export import export_pipeline
from svfit_diffusion.sharing.lora import KINDS
from svfit_diffusion.sharing.lora_export import embedding_files, export_lora
from svfit_diffusion.training.subject import sample_folder


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xl") / "tiny-xl"
    make_xl_pipeline().to(torch.float16).save_pretrained(folder)
    return folder


def gap(a, b):
    """The largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def load_trigger(pipe, file, token="<sks>"):
    """A textual-inversion sidecar on a pipeline, as diffusers documents it."""
    state = load_file(file)
    if set(state) == {"emb_params"}:
        pipe.load_textual_inversion(file, token=token)
        return
    for key, encoder, tokenizer in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion(
            state[key], token=token, text_encoder=encoder, tokenizer=tokenizer
        )


def mixed_ranks(pipe, concept):
    """The concept with every second delta vector cut to two values."""
    ranks = [rank if i % 2 else 2 for i, rank in enumerate(concept.ranks)]
    parts = np.split(concept.deltas, np.cumsum(concept.ranks)[:-1])
    deltas = np.concatenate([part[:r] for part, r in zip(parts, ranks, strict=True)])
    models = {part: getattr(pipe, part) for part in concept.targets}
    sizes = zip(layout(models, concept.targets), ranks, strict=True)
    digest = layout_hash((p.name, p.out_features, p.in_features, r) for p, r in sizes)
    cut = replace(concept, deltas=deltas, ranks=tuple(ranks), layout=digest)
    return with_self_check(cut, models, recognise(pipe))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mixed", [False, True])
def test_diffusers_draws_the_concept_from_its_lora(pipe, base_folder, tmp_path, kind, mixed):
    concept = make_concept(pipe)
    concept = mixed_ranks(pipe, concept) if mixed else concept
    before = picture(pipe)
    made = export_lora(concept, pipe, tmp_path / "rex.safetensors", kind, "float32")
    assert torch.equal(picture(pipe), before)
    load_concept(pipe, concept)
    other = load(base_folder)
    other.load_lora_weights(tmp_path, weight_name="rex.safetensors")
    load_trigger(other, tmp_path / "rex-sks.safetensors")
    difference = gap(picture(other, "a photo of <sks> dog"), picture(pipe))
    print(f"sd {kind} mixed={mixed}: {difference:.1e}")
    assert difference < 1e-5 < gap(before, picture(pipe))
    assert made.words == "rex-sks dog"
    if kind == "diffusers":
        assert "token='<sks>'" in made.calls["diffusers"] and "<sks> dog" in made.calls["diffusers"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_on_sdxl(xl_folder, tmp_path, kind):
    pipe, other = load(xl_folder), load(xl_folder)
    concept = make_concept(pipe, targets=XL, trigger=False)
    width = {part: getattr(pipe, part).config.hidden_size for part in list(XL)[1:]}
    rows = np.random.default_rng(0).standard_normal(sum(width.values())) * 0.05
    shape = {part: (1, w) for part, w in width.items()}
    concept = replace(concept, trigger_rows=rows.astype(np.float16), trigger_shape=shape)
    export_lora(concept, pipe, tmp_path / "rex.safetensors", kind, "float32")
    before = picture(pipe)
    load_concept(pipe, concept)
    # SDXL's files say 2 for the end token, by which transformers pools at the largest id: an
    # added token. The concept's loader sets that right; diffusers' leaves it to the user.
    other.text_encoder_2.config.eos_token_id = other.tokenizer_2.eos_token_id
    for module in other.text_encoder_2.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = other.tokenizer_2.eos_token_id
    other.load_lora_weights(tmp_path, weight_name="rex.safetensors")
    load_trigger(other, tmp_path / "rex-sks.safetensors")
    difference = gap(picture(other, "a photo of <sks> dog"), picture(pipe))
    print(f"sdxl {kind}: {difference:.1e}")
    assert difference < 1e-5 < gap(before, picture(pipe))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_on_toybox_in_pixels(tmp_path, kind):
    concept = read_concept(sample_folder().parent / "robot.safetensors")
    made, given = [], {"num": 1, "seed": 1, "steps": 10, "guidance": 3.0}
    pipe = load_base("toybox")
    export_lora(concept, pipe, tmp_path / "robot.safetensors", kind)
    load_concept(pipe, concept)
    made += [image for image, _ in generate(pipe, "a photo of sks toy in the snow", **given)]
    other = load_base("toybox")
    other.load_lora_weights(tmp_path, weight_name="robot.safetensors")
    load_trigger(other, tmp_path / "robot-sks.safetensors")
    made += [image for image, _ in generate(other, "a photo of <sks> toy in the snow", **given)]
    a, b = (np.asarray(image).astype(int) for image in made)
    print(f"toybox {kind}: largest difference {abs(a - b).max()} of 255")
    assert abs(a - b).max() <= 1


def test_key_names_are_those_that_other_programs_look_for(pipe, xl_folder, tmp_path):
    plain = make_concept(pipe, trigger=False)
    export_lora(plain, pipe, tmp_path / "a.safetensors", "kohya")
    block = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0"
    names = set(load_file(tmp_path / "a.safetensors"))
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    ends = (".lora_down.weight", ".lora_up.weight", ".alpha")
    for module in (f"{block}_attn1_to_q", f"{block}_attn2_to_out_0", text):
        assert {module + end for end in ends} <= names
    assert len(names) == 3 * len(plain.ranks)
    tensors = load_file(tmp_path / "a.safetensors")
    assert tensors[f"{block}_attn2_to_k.lora_down.weight"].shape == (4, 32)  # the base's mark
    assert {t.shape[0] for n, t in tensors.items() if "down.weight" in n} == {4}
    assert all(t.item() == 4 for n, t in tensors.items() if n.endswith(".alpha"))

    export_lora(plain, pipe, tmp_path / "b.safetensors", "diffusers")
    names = set(load_file(tmp_path / "b.safetensors"))
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
    assert {f"unet.{path}.lora_A.weight", f"unet.{path}.lora_B.weight"} <= names
    assert "text_encoder.text_model.encoder.layers.1.self_attn.v_proj.lora_A.weight" in names
    assert len(names) == 2 * len(plain.ranks)

    large = load(xl_folder)
    export_lora(
        make_concept(large, targets=XL, trigger=False), large, tmp_path / "c.safetensors", "kohya"
    )
    names = {name.split("_text_model")[0] for name in load_file(tmp_path / "c.safetensors")}
    assert {"lora_te1", "lora_te2"} <= names and "lora_te" not in names


def test_metadata_and_sidecars(pipe, tmp_path):
    image = Image.new("RGB", (640, 480), "red")
    concept = replace(make_concept(pipe), license="CC0-1.0", created="2026-01-02T03:04:05Z")
    made = export_lora(concept, pipe, tmp_path / "rex.safetensors", preview=image)
    assert [file.name for file in made.files] == [
        "rex.safetensors",
        "rex-sks.safetensors",
        "rex.json",
        "rex.png",
    ]
    data = (tmp_path / "rex.safetensors").read_bytes()
    with safe_open(tmp_path / "rex.safetensors", framework="np") as file:
        held = file.metadata()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert held["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    wanted = {
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "4.0",
        "ss_output_name": "rex",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.resolution": "512x512",
        "ss_network_args": "{}",
        "modelspec.title": "rex",
        "modelspec.trigger_phrase": "rex-sks dog",
        "modelspec.hash_sha256": f"0x{held['sshs_model_hash']}",
    }
    assert wanted.items() <= held.items()
    (cover,) = json.loads(held["ssmd_cover_images"])
    assert Image.open(io.BytesIO(base64.b64decode(cover))).size == (256, 192)
    assert Image.open(tmp_path / "rex.png").size == (640, 480)
    card = json.loads((tmp_path / "rex.json").read_text())
    assert card["activation text"] == "rex-sks dog" and card["sd version"] == "SD1"
    for program, call in made.calls.items():
        assert f"{program}: {call}" in card["notes"]


def test_each_program_has_its_own_way_to_call_a_learned_word(pipe, tmp_path):
    concept = make_concept(pipe)
    made = export_lora(concept, pipe, tmp_path / "rex-kohya.safetensors")
    assert made.files[1].name == "rex-sks.safetensors"  # the file's kind is no part of the word
    starts = {
        "ComfyUI": "embedding:rex-sks dog,",
        "AUTOMATIC1111, Forge": "rex-sks dog,",
        "InvokeAI": "<rex-sks> dog,",
    }
    assert set(made.calls) == set(starts)
    assert all(made.calls[program].startswith(start) for program, start in starts.items())
    plain = make_concept(pipe, trigger=False)
    made = export_lora(plain, pipe, tmp_path / "a.safetensors")
    assert made.calls == {"ComfyUI, AUTOMATIC1111, Forge, InvokeAI": "sks dog"}


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_where_another_encoder_reads_the_word_as_typed_comfyui_gets_two_prompts(name, tmp_path):
    pipe = TINY[name]()
    pipe.to(getattr(torch, recognise(pipe).dtype)).save_pretrained(tmp_path / "base")
    pipe = load(tmp_path / "base")
    concept = make_concept(pipe, targets=all_targets(pipe), trigger=False)
    parts = ["text_encoder", "text_encoder_2"][: 2 if name == "sd3" else 1]
    widths = {part: getattr(pipe, part).config.hidden_size for part in parts}
    concept = replace(
        concept,
        trigger_rows=np.ones(sum(widths.values()), np.float16),
        trigger_shape={part: (1, width) for part, width in widths.items()},
    )
    made = export_lora(concept, pipe, tmp_path / "rex.safetensors")
    assert "embedding:rex-sks dog for CLIP, and sks dog for T5" in made.calls["ComfyUI"]
    held = {key: len(rows[0]) for key, rows in load_file(tmp_path / "rex-sks.safetensors").items()}
    assert held == dict(zip(("clip_l", "clip_g"), widths.values(), strict=False))
    with safe_open(tmp_path / "rex.safetensors", framework="np") as file:
        facts = file.metadata()
    wanted = {"flux": "flux-1-dev/lora", "sd3": "stable-diffusion-3/lora"}[name]
    assert facts["modelspec.architecture"] == wanted
    assert facts["modelspec.resolution"] == "1024x1024"


def test_a_bundled_word_has_the_name_that_was_learned(pipe, tmp_path):
    """`bundle_emb.<word>.string_to_param.*` is what AUTOMATIC1111's networks.py looks for."""
    concept = make_concept(pipe)
    sizes = []
    made = export_lora(
        concept, pipe, tmp_path / "a.safetensors", bundle=True, announce=sizes.append
    )
    held = load_file(tmp_path / "a.safetensors")
    rows = held["bundle_emb.sks.string_to_param.*"].flatten()
    assert np.array_equal(rows.numpy(), concept.trigger_rows.astype(np.float32))
    assert sizes == [(tmp_path / "a.safetensors").stat().st_size]
    assert made.words == "sks dog"
    assert made.calls["AUTOMATIC1111, Forge"].startswith("sks dog, the word is in")
    with pytest.raises(ValueError, match="in kohya's format only"):
        export_lora(concept, pipe, tmp_path / "b.safetensors", "diffusers", bundle=True)


def test_half_precision_and_strength(pipe, base_folder, tmp_path):
    concept = make_concept(pipe, trigger=False)
    export_lora(concept, pipe, tmp_path / "rex.safetensors", dtype="float16", strength=0.5)
    assert {t.dtype for t in load_file(tmp_path / "rex.safetensors").values()} == {torch.float16}
    load_concept(pipe, concept, strength=0.5)
    other = load(base_folder)
    other.load_lora_weights(tmp_path, weight_name="rex.safetensors")
    assert 0 < gap(picture(other), picture(pipe)) < 5e-3


@pytest.mark.parametrize(("vectors", "words"), [(1, "sks dog"), (2, "<sks> dog")])
def test_a_fused_base_needs_nothing_of_ours(pipe, base_folder, tmp_path, vectors, words):
    concept = make_concept(pipe)
    if vectors > 1:
        rows = np.concatenate([concept.trigger_rows, 0.5 * concept.trigger_rows])
        shape = {"text_encoder": (2, len(concept.trigger_rows))}
        concept = replace(concept, trigger_rows=rows, trigger_shape=shape)
    made = export_pipeline(concept, load(base_folder), tmp_path / "fused", strength=0.7)
    assert made.words == words
    load_concept(pipe, concept, strength=0.7)
    other = StableDiffusionPipeline.from_pretrained(tmp_path / "fused")
    other.set_progress_bar_config(disable=True)
    difference = gap(picture(other, f"a photo of {words}"), picture(pipe))
    print(f"fused, {vectors} rows: {difference:.1e}")
    assert difference < 1e-5
    saved = {n for f in (tmp_path / "fused").rglob("*.safetensors") for n in load_file(f)}
    assert saved and not any("svfit" in name for name in saved)


def test_the_basis_is_asked_for_once(pipe, tmp_path, monkeypatch):
    asked, own = [], verification.load_bases

    def load_bases(model, *arguments):
        asked.append(model)
        return own(model, *arguments)

    monkeypatch.setattr(verification, "load_bases", load_bases)
    concept = make_concept(pipe)
    asked.clear()
    export_lora(concept, pipe, tmp_path / "a.safetensors")
    assert len(asked) == len(concept.targets)


def test_what_cannot_be_exported_is_refused(pipe, tmp_path):
    concept, path = make_concept(pipe), tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="other weights"):
        export_lora(concept, make_pipeline(seed=5), path)
    with pytest.raises(ValueError, match="format is 'comfy', but must be one of kohya, diffusers"):
        export_lora(concept, pipe, path, "comfy")
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        export_lora(concept, pipe, path, dtype="int8")
    load_concept(pipe, concept)
    with pytest.raises(ValueError, match="freshly loaded"):
        export_pipeline(concept, pipe, tmp_path / "fused")
    assert not list(tmp_path.iterdir())


def test_words_of_other_scripts_have_names_of_their_own():
    """None has a letter that other programs read, and two differ in case or brackets alone."""
    words = ("рекс", "белла", "<rex>", "rex", "Rex", "r")
    files = embedding_files(Path("a/both-kohya.safetensors"), words)
    names = [path.name.removesuffix(".safetensors") for path in files.values()]
    assert names == ["both-concept", "both-concept-2", "both-rex", "both-rex-2", "both-Rex-3",
                     "both-r"]  # fmt: skip
