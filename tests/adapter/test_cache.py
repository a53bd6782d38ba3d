"""cache.py: it answers for each projection, and is warm, safe, shared and bounded."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers.tiny_pipelines import load
from safetensors import SafetensorError

from svfit_diffusion.adapter import cache, truncated_svd
from svfit_diffusion.adapter.attention import find_projections
from svfit_diffusion.adapter.basis import factorize
from svfit_diffusion.adapter.cache import cache_folder, load_bases


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


def factored(monkeypatch):
    """A list that gets the name of each weight that is factored from here on."""
    names, inner = [], cache.factorize_all

    def factorize_all(jobs):
        names.extend(job.name.split()[0] for job in jobs)
        return inner(jobs)

    monkeypatch.setattr(cache, "factorize_all", factorize_all)
    return names


def same_edit(basis, weight, rank):
    """Whether a basis gives the edit, and the ties, of one that is factored at this rank."""
    direct, delta = factorize(weight, rank), torch.linspace(-1, 1, len(basis.s)).double()
    for start, stop, kept in direct.ties():
        delta[start:stop] = delta[start:stop].mean() * kept
    mine, theirs = ((b.U.double() * delta) @ b.V.double().T for b in (basis, direct))
    assert (mine - theirs).norm() <= 1e-6 * delta.norm()
    return basis.ties() == direct.ties() and torch.allclose(basis.s, direct.s, rtol=1e-6)


def test_any_rank_that_is_held_or_a_lower_one_is_answered(pipe, monkeypatch):
    """One projection has equal values, which a lower rank cuts as if it were factored at it."""
    names = sorted(find_projections(pipe.unet))
    weight = pipe.unet.get_submodule(names[0]).weight
    values = torch.tensor([4.0, 3, 3, 2, 1])
    weight.data = torch.zeros_like(weight)
    weight.data[range(5), range(5)] = values
    load_bases(pipe.unet, ranks(pipe.unet, "full"), "float16")
    no_factoring(monkeypatch)
    for rank in (1, 2, 3, 4, 9, "full"):
        found = load_bases(pipe.unet, ranks(pipe.unet, rank), "float16")
        for name in names[:4]:
            assert same_edit(found[name], pipe.unet.get_submodule(name).weight, rank)
    assert find_projections(pipe.unet, "self").keys() < set(names)


def test_only_what_is_missing_is_factored(pipe, monkeypatch):
    """Another set of ranks, or of projections, is no other base."""
    load_bases(pipe.unet, ranks(pipe.unet), "float16")
    names, made = sorted(find_projections(pipe.unet)), factored(monkeypatch)
    load_bases(pipe.unet, {names[0]: 4, names[1]: 2}, "float16")
    assert made == []
    load_bases(pipe.unet, ranks(pipe.unet) | {names[1]: 6}, "float16")
    load_bases(pipe.unet, ranks(pipe.unet) | {names[1]: 5}, "float16")
    assert made == [names[1]]
    load_bases(pipe.unet, {names[2]: "energy=0.5"}, "float16")
    again = load_bases(pipe.unet, {names[2]: "energy=0.5"}, "float16")
    assert made == [names[1], names[2]]
    assert same_edit(again[names[2]], pipe.unet.get_submodule(names[2]).weight, "energy=0.5")
    assert len(list(cache_folder().glob("basis-*.safetensors"))) == 1


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
    load_bases(pipe.text_encoder, ranks(pipe.text_encoder, 2), "float16")
    (first,) = cache_folder().glob("basis-*.safetensors")
    monkeypatch.setenv("SVFIT_CACHE_LIMIT", str(first.stat().st_size))
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


@contextlib.contextmanager
def read_only(folder):
    """Nobody but the owner may write there, and during the block this process is not the owner."""
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no other users")
def test_a_read_only_cache_is_used(base_folder, monkeypatch):
    with tempfile.TemporaryDirectory() as root:  # pytest's folders are closed to others
        Path(root).chmod(0o755)
        shared = Path(root) / "cache"
        shared.mkdir()
        monkeypatch.setenv("SVFIT_CACHE", str(shared))
        unet = load(shutil.copytree(base_folder, Path(root) / "base")).unet
        for file in (Path(root) / "base").rglob("*.safetensors"):
            file.chmod(0o644)
        cold = load_bases(unet, ranks(unet), "float16")
        with read_only(shared), monkeypatch.context() as patch:
            with pytest.raises(OSError, match="denied"):
                (shared / "file").touch()
            no_factoring(patch)
            warm = load_bases(unet, ranks(unet), "float16")
        with read_only(shared), pytest.warns(UserWarning, match="cannot be written .*denied"):
            more = load_bases(unet, ranks(unet, 5), "float16")
    assert all(torch.equal(cold[n].U, warm[n].U) and len(more[n].s) == 5 for n in cold)


def test_a_base_that_cannot_be_read_is_said_once(base_folder, tmp_path, monkeypatch, recwarn):
    folder = shutil.copytree(base_folder, tmp_path / "base")
    unet, tried = load(folder).unet, factored(monkeypatch)
    weight = cache.Source.weight

    def broken_off(source, name):
        for path in (folder / "unet").glob("*.safetensors"):  # by now, its header was read
            path.write_bytes(path.read_bytes()[:1000])
        return weight(source, name)

    monkeypatch.setattr(cache.Source, "weight", broken_off)
    with pytest.raises(ValueError, match="of the base cannot be read .*download the base again"):
        load_bases(unet, ranks(unet), "float16")
    assert len(tried) == len(ranks(unet))  # once
    assert not [w for w in recwarn if "not cached" in str(w.message)]
    with pytest.raises(ValueError, match="of the base cannot be read"):
        load_bases(unet, ranks(unet), "float16")


def test_waiting_for_another_process_is_said(pipe, monkeypatch, caplog):
    monkeypatch.setattr(cache, "PATIENCE", 0.1)
    load_bases(pipe.unet, ranks(pipe.unet), "float16")
    (entry,) = cache_folder().glob("basis-*.safetensors")
    taken = threading.Event()

    def other():
        with FileLock(f"{entry}.lock"):
            taken.set()
            time.sleep(1)

    threading.Thread(target=other).start()
    assert taken.wait(60)
    assert load_bases(pipe.unet, ranks(pipe.unet, 5), "float16")
    assert "another process is computing the basis of this UNet2DConditionModel" in caplog.text


def test_a_limit_that_is_too_small_takes_nothing_of_the_same_load(pipe, monkeypatch, caplog):
    """A base of several files has an entry for each: all are there for the next load."""
    monkeypatch.setenv("SVFIT_CACHE_LIMIT", "1")
    for model in (pipe.text_encoder, pipe.unet):
        load_bases(model, ranks(model, 2), "float16")
    no_factoring(monkeypatch)
    for model in (pipe.text_encoder, pipe.unet):
        load_bases(model, ranks(model, 2), "float16")
    monkeypatch.setenv("SVFIT_CACHE_LIMIT", "4GB")
    assert cache._limit() == cache.DEFAULT_LIMIT and "must be a number of bytes" in caplog.text


def test_a_full_disk_costs_time_only(pipe, monkeypatch):
    """safetensors has an error of its own for it."""

    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.warns(UserWarning, match="not cached.*No space left"):
        assert load_bases(pipe.unet, ranks(pipe.unet), "float16")
    assert not list(cache_folder().glob("*.tmp"))
