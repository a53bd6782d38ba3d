"""published.py: the file is the source, of the variant that was loaded, unless it was changed."""

import os
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.tiny_pipelines import load, make_concept, make_pipeline

from svfit_diffusion.adapter import published
from svfit_diffusion.adapter.attention import find_projections
from svfit_diffusion.adapter.cache import fingerprint, load_bases
from svfit_diffusion.adapter.published import find_source
from svfit_diffusion.pipeline.loading import load_concept

NAME = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def ranks(model, rank=4):
    return dict.fromkeys(find_projections(model), rank)


def test_basis_is_of_the_file_whatever_was_loaded(base_folder, monkeypatch):
    exact = load_bases(load(base_folder).unet, ranks(load(base_folder).unet), "float16")
    coarse = load(base_folder, torch.bfloat16).unet
    coarse.conv_in.weight.data.zero_()
    monkeypatch.setenv("SVFIT_CACHE", os.environ["SVFIT_CACHE"] + "2")
    again = load_bases(coarse, ranks(coarse), "float16")
    assert all(torch.equal(exact[n].V, again[n].V) for n in exact)


def test_text_encoder_is_found_in_its_file(pipe):
    source = find_source(pipe.text_encoder, find_projections(pipe.text_encoder), "float16")
    assert len(source.files) == len(find_projections(pipe.text_encoder)) > 0


def test_memory_and_file_agree_on_the_fingerprint(pipe):
    names = find_projections(pipe.unet)
    from_file = fingerprint(pipe.unet, names, "float16")
    pipe.unet.register_to_config(_name_or_path="")
    assert fingerprint(pipe.unet, names, "float16") == from_file
    assert fingerprint(make_pipeline(1).unet, names, "float16") != from_file


def test_a_changed_file_is_another_base(base_folder, tmp_path):
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    pipe = load(folder)
    names = find_projections(pipe.unet)
    before = fingerprint(pipe.unet, names, "float16")
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.data += 0.1
    pipe.unet.half().save_pretrained(folder / "unet")
    assert fingerprint(pipe.unet, names, "float16") != before


def test_bfloat16_without_files_warns(pipe):
    pipe.unet.register_to_config(_name_or_path="")
    with pytest.warns(UserWarning, match="bfloat16"):
        load_bases(pipe.unet.to(torch.bfloat16), ranks(pipe.unet), "float16")


def source_of(model):
    return find_source(model, find_projections(model), "float16")


@pytest.mark.parametrize("change", [lambda w: w * 1.01, lambda w: w + 0.02 * torch.randn(w.shape)])
def test_weights_that_were_changed_in_memory_are_not_the_files(pipe, change):
    """All of one projection, by a hundredth or by less than its spread."""
    names, before = find_projections(pipe.unet), source_of(pipe.unet)
    published = fingerprint(pipe.unet, names, "float16")
    weight = pipe.unet.get_submodule(NAME).weight
    weight.data = change(weight.data)
    assert before.files and not source_of(pipe.unet).files
    assert fingerprint(pipe.unet, names, "float16") != published
    own = load_bases(pipe.unet, {NAME: "full"}, "float16")[NAME]
    rebuilt = (own.U * own.s) @ own.V.T
    assert torch.allclose(rebuilt, weight.data.half().float(), atol=1e-5)


@pytest.mark.parametrize("path", ["float16", "bfloat16", "bfloat16 float32", "float64"])
def test_rounding_is_no_change(pipe, path):
    for dtype in path.split():
        pipe.unet.to(getattr(torch, dtype))
    assert source_of(pipe.unet).files


def test_what_diffusers_keeps_in_eight_bits_is_no_change(pipe):
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    names = find_projections(pipe.unet)
    assert pipe.unet.get_submodule(next(iter(names))).weight.dtype == torch.float8_e4m3fn
    assert source_of(pipe.unet).files


def two_variants(base_folder, folder):
    """A UNet's folder with other weights as the variant non_ema, and those weights."""
    shutil.copytree(base_folder / "unet", folder)
    other = make_pipeline(seed=1).unet.half()
    other.save_pretrained(folder, variant="non_ema")
    return other


@pytest.mark.parametrize("shards", [False, True])
def test_basis_and_fingerprint_are_of_the_variant_that_was_loaded(base_folder, tmp_path, shards):
    other, folder = two_variants(base_folder, tmp_path / "unet"), tmp_path / "unet"
    if shards:
        other.save_pretrained(folder, variant="non_ema", max_shard_size="100KB")
        assert len(list(folder.glob("*non_ema*-of-*.safetensors"))) > 2
    plain = UNet2DConditionModel.from_pretrained(folder)
    ema = UNet2DConditionModel.from_pretrained(folder, variant="non_ema")
    assert "non_ema" in next(iter(source_of(ema).files.values()))[0].name
    names, found = find_projections(plain), {}
    for model, weights in ((plain, load(base_folder).unet), (ema, other)):
        assert source_of(model).files
        weights.register_to_config(_name_or_path="")  # what is in memory is hashed
        found[model] = fingerprint(model, names, "float16")
        assert found[model] == fingerprint(weights, names, "float16")
    assert found[plain] != found[ema]
    basis = load_bases(ema, {NAME: "full"}, "float16")[NAME]
    rebuilt = (basis.U * basis.s) @ basis.V.T
    assert torch.allclose(rebuilt, other.get_submodule(NAME).weight.float(), atol=1e-5)


def test_a_load_looks_for_the_published_weights_once(pipe, monkeypatch):
    """Once for each model, whatever asks; and again the next time, when they may have changed."""
    asked, own = [], published._find_source

    def find(model, *arguments):
        asked.append(type(model).__name__)
        return own(model, *arguments)

    concept = make_concept(pipe)
    monkeypatch.setattr(published, "_find_source", find)
    for count in (1, 2):
        load_concept(pipe, concept, name=f"rex{count}", token=f"word{count}")
        assert sorted(asked) == sorted(["UNet2DConditionModel", "CLIPTextModel"] * count)
    weight = next(layer for layer in pipe.unet.modules() if hasattr(layer, "svfit_delta"))
    weight.base_layer.weight.data.normal_()
    with pytest.raises(ValueError, match="other weights, or rounded ones"):
        load_concept(pipe, concept, name="three", token="word3")
