"""cli_files.py: export, import, merge and push as a user types them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_pipelines import load, make_concept
from PIL import Image
from safetensors.torch import load_file

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import read_concept, write_concept


@pytest.fixture
def files(base_folder, tmp_path, monkeypatch):
    """rex and mug, two concept files of the tiny base, in the working folder."""
    monkeypatch.chdir(tmp_path)
    pipe = load(base_folder)
    for name, seed, token in (("rex", 1, "sks"), ("mug", 2, "zwx")):
        write_concept(make_concept(pipe, seed=seed, token=token), f"{name}.safetensors")
    return tmp_path


def test_export_writes_all_files_and_says_how_to_call_it(files, base_folder, capsys):
    given = ["export", "rex.safetensors", "--base", str(base_folder), "--to", "kohya"]
    assert main(given) == 0
    out = capsys.readouterr().out.splitlines()
    size = (files / "rex-kohya.safetensors").stat().st_size
    assert out[:2] == [f"rex-kohya.safetensors: {size:,} bytes", "rex-sks.safetensors"]
    assert any("in InvokeAI: <rex-sks> dog" in line for line in out)
    assert json.loads((files / "rex-kohya.json").read_text())["sd version"] == "SD1"
    assert not (files / "rex-kohya.png").exists()
    exact = [*given, "--dtype", "float32", "--preview", "draw", "--output", "exact.safetensors"]
    assert main(exact) == 0 and Image.open(files / "exact.png").size == (32, 32)
    assert size < 0.7 * (files / "exact.safetensors").stat().st_size


def test_the_form_that_only_diffusers_reads_says_so(files, base_folder, capsys):
    given = ["export", "rex.safetensors", "--base", str(base_folder), "--to", "diffusers"]
    assert main(given) == 0
    assert "ComfyUI, AUTOMATIC1111 and Forge do not read this form" in capsys.readouterr().out
    assert (files / "rex-diffusers.safetensors").is_file()


def test_export_fuse_writes_a_pipeline(files, base_folder, capsys):
    given = ["export", "rex.safetensors", "--base", str(base_folder), "--to", "diffusers", "--fuse"]
    assert main([*given, "--dtype", "float16", "--output", "fused"]) == 0
    assert "reads it: sks dog" in capsys.readouterr().out
    fused, base = (load(folder).unet.state_dict() for folder in ("fused", base_folder))
    changed = {name for name in base if not np.array_equal(base[name], fused[name])}
    assert changed and all(".attn" in name for name in changed)


def test_import_says_what_survives(files, base_folder, capsys):
    base = ["--base", str(base_folder)]
    main(["export", "rex.safetensors", *base, "--to", "diffusers", "--preview", "none"])
    assert main(["import", "rex-diffusers.safetensors", *base, "--rank", "4"]) == 0
    out = capsys.readouterr().out
    assert "rex-diffusers-svfit.safetensors: " in out and "hold 100.0% of the LoRA's energy" in out
    assert "use the LoRA itself" not in out
    assert main(["import", "rex-diffusers.safetensors", *base, "--rank", "1", "--overwrite"]) == 0
    assert "use the LoRA itself" in capsys.readouterr().out
    back, first = (read_concept(f"{n}.safetensors") for n in ("rex-diffusers-svfit", "rex"))
    assert len(back.deltas) == len(first.ranks)  # the second command's


def test_merge(files, base_folder, capsys):
    given = ["merge", "rex.safetensors:0.5", "mug.safetensors:0.25"]
    assert main([*given, "-o", "both.safetensors"]) == 0
    assert "called by sks dog, zwx dog" in capsys.readouterr().out
    assert main(["info", "both.safetensors"]) == 0
    assert "sks dog, zwx dog (learned)" in capsys.readouterr().out
    again = ["merge", "rex.safetensors", "rex.safetensors", "-o", "twice.safetensors"]
    assert main([*again, "--words", "sks", "mug"]) == 0
    want = 2 * read_concept("rex.safetensors").deltas.astype(float)
    assert np.array_equal(read_concept("twice.safetensors").deltas, want)
    first = read_concept("rex.safetensors")
    write_concept(replace(first, check=(), common=None), "old.safetensors")
    old = ["merge", "old.safetensors", "mug.safetensors", "-o", "c.safetensors"]
    assert main(old) == 2 and "pass it as --base" in capsys.readouterr().err
    assert main([*old, "--base", str(base_folder)]) == 0


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["export", "no.safetensors", "--to", "kohya"], "no.safetensors cannot be read"),
        (["export", "x", "--to", "kohya", "--fuse"], "--to diffusers"),
        (["export", "rex.safetensors", "--to", "kohya", "--preview", "none"], "trained on 'tiny'"),
        (["export", "rex.safetensors", "--to", "kohya", "--output", "a.pt"], "must end in"),
        (["import", "no.safetensors"], "is not a file"),
        (["import", "rex.safetensors"], "not a plain LoRA"),
        (["merge", "rex.safetensors", "-o", "c"], "at least two"),
        (["merge", "rex.safetensors", "rex.safetensors", "-o", "c"], "--words"),
        (["push", "rex.safetensors", "me/rex"], "could not be uploaded"),
        (["push", "no.safetensors", "me/rex"], "cannot be read"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(files, command, reason, capsys):
    assert main(command) == 2
    err = capsys.readouterr().err
    assert reason in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_a_strangers_words_cannot_steer_the_terminal(files, base_folder, capsys):
    evil = replace(read_concept("rex.safetensors"), class_word="\x1b[2J")
    write_concept(evil, "evil.safetensors")
    base = ["--base", str(base_folder), "--preview", "none"]
    assert main(["export", "evil.safetensors", "--to", "kohya", *base]) == 0
    assert main(["merge", "evil.safetensors", "mug.safetensors", "-o", "c.safetensors"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_exported_file_is_read_by_others_without_us(files, base_folder):
    main(
        ["export", "rex.safetensors", "--base", str(base_folder), "--to", "kohya"]
        + ["--preview", "none", "--strength", "0.5", "--output", "deep/a.safetensors"]
    )
    held = load_file(files / "deep" / "a.safetensors")
    down, up = (
        next(t for n, t in sorted(held.items()) if n.endswith(end))
        for end in ("lora_down.weight", "lora_up.weight")
    )
    product = up.float() @ down.float()  # singular values of the edit are half of the first deltas
    first = read_concept("rex.safetensors").ranks[0]
    assert np.linalg.matrix_rank(product.numpy(), tol=1e-4) <= first
