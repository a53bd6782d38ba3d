"""cache.py: the published file is the source, and the cache is warm, safe and bounded."""

import os
import re
import subprocess
import sys

import pytest
import torch
from helpers.tiny_pipelines import load, make_pipeline

from svfit_diffusion.adapter import cache, truncated_svd
from svfit_diffusion.adapter.attention import find_projections
from svfit_diffusion.adapter.cache import cache_folder, fingerprint, load_bases


def ranks(model, rank=4):
    return dict.fromkeys(find_projections(model), rank)


def no_factoring(monkeypatch):
    def fail(jobs):
        raise AssertionError("factored again")

    monkeypatch.setattr(cache, "factorize_all", fail)


def test_warm_load_neither_factors_nor_reads_the_weights(pipe, monkeypatch):
    cold = load_bases(pipe.unet, ranks(pipe.unet), "float16")
    no_factoring(monkeypatch)
    monkeypatch.setattr(cache.Source, "weight", lambda *_: pytest.fail("read a weight"))
    warm = load_bases(pipe.unet, ranks(pipe.unet), "float16")
    assert all(
        torch.equal(cold[n].U, warm[n].U) and torch.equal(cold[n].V, warm[n].V) for n in cold
    )


def test_basis_is_of_the_file_whatever_was_loaded(base_folder, monkeypatch):
    exact = load_bases(load(base_folder).unet, ranks(load(base_folder).unet), "float16")
    coarse = load(base_folder, torch.bfloat16).unet
    coarse.conv_in.weight.data.zero_()
    monkeypatch.setenv("SVFIT_CACHE", os.environ["SVFIT_CACHE"] + "2")
    again = load_bases(coarse, ranks(coarse), "float16")
    assert all(torch.equal(exact[n].V, again[n].V) for n in exact)


def test_text_encoder_is_found_in_its_file(pipe):
    source = cache.find_source(pipe.text_encoder, find_projections(pipe.text_encoder), "float16")
    assert len(source.files) == len(find_projections(pipe.text_encoder)) > 0


def test_memory_and_file_agree_on_the_fingerprint(pipe):
    names = find_projections(pipe.unet)
    from_file = fingerprint(pipe.unet, names, "float16")
    pipe.unet.register_to_config(_name_or_path="")
    assert fingerprint(pipe.unet, names, "float16") == from_file
    assert fingerprint(make_pipeline(1).unet, names, "float16") != from_file


def test_a_changed_file_is_another_base(base_folder, tmp_path):
    import shutil

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


def test_a_weight_that_cannot_be_factored_is_named(pipe, monkeypatch):
    pipe.unet.register_to_config(_name_or_path="")
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weight, at = pipe.unet.get_submodule(name).weight, f"{re.escape(name)} of UNet2DConditionModel"
    with monkeypatch.context() as strict:
        strict.setattr(truncated_svd, "EDIT", 0.0)
        with pytest.raises(ValueError, match=f"{at} .*give it a lower rank"):
            load_bases(pipe.unet, {name: 4}, "float16")
    weight.data[3, 5] = float("nan")
    with pytest.raises(ValueError, match=f"{at} of shape .*finite numbers"):
        load_bases(pipe.unet, ranks(pipe.unet), "float16")


def test_a_damaged_entry_is_made_anew(pipe):
    good = load_bases(pipe.unet, ranks(pipe.unet), "float16")
    (entry,) = cache_folder().glob("basis-*.safetensors")
    entry.write_bytes(entry.read_bytes()[:1000])
    again = load_bases(pipe.unet, ranks(pipe.unet), "float16")
    assert all(torch.equal(good[n].U, again[n].U) for n in good)


def test_the_cache_is_bounded_and_keeps_what_was_used_last(pipe, monkeypatch):
    load_bases(pipe.unet, ranks(pipe.unet, 2), "float16")
    (first,) = cache_folder().glob("basis-*.safetensors")
    monkeypatch.setenv("SVFIT_CACHE_LIMIT", str(int(first.stat().st_size * 1.5)))
    left = cache_folder() / ".basis-0.safetensors.01234567.tmp"  # by a write that was killed
    left.touch()
    for file in (first, left):
        os.utime(file, (1, 1))
    load_bases(pipe.unet, ranks(pipe.unet, 3), "float16")
    assert not left.exists()
    assert not first.exists() and len(list(cache_folder().glob("basis-*.safetensors"))) == 1


def test_an_unwritable_cache_costs_time_only(pipe, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="not cached"):
        assert load_bases(pipe.unet, ranks(pipe.unet), "float16")


def test_two_processes_factor_once(base_folder):
    code = (
        "import sys; from diffusers import UNet2DConditionModel as U\n"
        "from svfit_diffusion.adapter import cache\n"
        "from svfit_diffusion.adapter.attention import find_projections\n"
        "u = U.from_pretrained(sys.argv[1]); n = 0\n"
        "inner = cache.factorize_all\n"
        "def count(jobs):\n    global n; n += 1; import time; time.sleep(2); return inner(jobs)\n"
        "cache.factorize_all = count\n"
        "cache.load_bases(u, dict.fromkeys(find_projections(u), 4), 'float16'); print('made', n)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(base_folder / "unet")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    made = [int(run.communicate(timeout=600)[0].split()[-1]) for run in runs]
    assert sorted(made) == [0, 1]
