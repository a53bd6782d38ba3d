"""cli.py: the commands as a user types them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_pipelines import load, make_concept
from PIL import Image

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import write_concept
from svfit_diffusion.generation.pictures import read_parameters


@pytest.fixture
def concept_file(base_folder, tmp_path):
    return write_concept(make_concept(load(base_folder)), tmp_path / "rex.safetensors")


def draw(base_folder, out, *more):
    command = ["generate", "--base", str(base_folder), "--prompt", "sks dog", "--steps", "2"]
    return main([*command, "--output_dir", str(out), *more])


def test_generate_writes_pictures_with_their_parameters_and_a_grid(
    base_folder, concept_file, tmp_path, capsys
):
    out = tmp_path / "out"
    given = ["--concept", f"{concept_file}:0.8", "--num", "2", "--seed", "7"]
    assert draw(base_folder, out, *given) == 0
    names = sorted(p.name for p in out.iterdir())
    assert names == ["00000007.png", "00000008.png", "grid.png"]
    held = read_parameters(out / "00000008.png")
    assert (held.prompt, held.seed, held.steps) == ("sks dog", 8, 2)
    assert held.concepts == (("rex", 0.8),) and held.base == "tiny"
    assert str(out / "grid.png") in capsys.readouterr().out


def test_a_picture_depends_on_its_seed_only(base_folder, concept_file, tmp_path):
    given = ["--concept", str(concept_file)]
    draw(base_folder, tmp_path / "a", *given, "--num", "2", "--seed", "3")
    draw(base_folder, tmp_path / "b", *given, "--num", "1", "--seed", "4")
    draw(base_folder, tmp_path / "c", "--num", "1", "--seed", "4")
    a, b, c = (np.asarray(Image.open(tmp_path / f / "00000004.png")) for f in "abc")
    assert np.array_equal(a, b) and not np.array_equal(b, c)


def test_info_says_what_a_file_is(concept_file, capsys):
    assert main(["info", str(concept_file)]) == 0
    out = capsys.readouterr().out
    for text in ("sks dog (learned)", "tiny (family sd)", "rank       4", "projections"):
        assert text in out


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"], ["info"]])
def test_quick_commands_import_neither_torch_nor_gradio(command, concept_file):
    code = (
        "import sys\nfrom svfit_diffusion.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'gradio', 'diffusers'} & set(sys.modules)))"
    )
    command = command + ([str(concept_file)] if command == ["info"] else [])
    run = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stderr


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["info", "no.safetensors"], "no.safetensors cannot be read"),
        (["generate", "--prompt", "x", "--concept", "no.safetensors:0.5"], "cannot be read"),
        (["train", "--instance_data_dir", "photos"], "what the photos show is not said"),
        (["train", "--rank", "lots"], "rank is 'lots'"),
        (["train", "--resolution", "99"], "multiple of 8"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(command, reason, capsys):
    assert main(command) == 2
    err = capsys.readouterr().err
    assert reason in err and "Traceback" not in err


def test_a_strangers_text_cannot_steer_the_terminal(base_folder, tmp_path, capsys):
    from dataclasses import replace

    evil = replace(make_concept(load(base_folder)), license="\x1b[2J\u202egnp")
    main(["info", str(write_concept(evil, tmp_path / "e.safetensors"))])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out


def test_the_script_is_the_train_command():
    run = subprocess.run(
        [sys.executable, "train_dreambooth_svfit.py", "--help"], capture_output=True, text=True
    )
    assert "--instance_data_dir" in run.stdout and run.returncode == 0


def test_an_error_is_one_line_whatever_a_file_is_called(tmp_path, capsys):
    strange = f"{tmp_path}/\x1b[2J\x1b]0;owned\x07\u202egnp\n{'x' * 50}.safetensors"
    Path(strange).write_bytes(b"\xff\xfe")
    commands = (["info", strange], ["merge", strange, "-o", "b"], ["info", "a", "b", strange])
    prompts = ["evaluate", "--concept", strange, "--reference_dir", "a", "--prompts", strange]
    for command in (*commands, ["generate", "--prompt", "x", "--concept", strange], prompts):
        try:
            assert main(command) == 2
        except SystemExit as error:  # of argparse
            assert error.code == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "\N{REPLACEMENT CHARACTER}" in said and len(said) < 1_100
        assert not {"\x1b", "\x07", "\u202e"} & set(said) and "gnp" in said and "xxx" in said


@pytest.mark.parametrize("command", ["app", "serve --concepts ."])
@pytest.mark.parametrize("port", ["99999", "-1", "x"])
def test_what_is_no_port_is_refused_before_anything_is_loaded(command, port, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), f"--port={port}"])
    assert ended.value.code == 2 and "must be from 0 to 65535" in capsys.readouterr().err
