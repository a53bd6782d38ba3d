"""Each command and each Python block of README and docs, run as written, where a user would be.

Bases are tiny ones that lie in the Hub's local cache under the names that the pages use; what asks
the Hub asks a local stand-in. `SMALL` is added to commands that would take long.
"""

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from helpers.documents import ROOT, blocks, make_hub_cache, make_scratch
from helpers.local_hub import Hub, local_hub
from huggingface_hub import constants

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import read_concept, write_concept
from svfit_diffusion.training import sample_folder

SMALL = {
    "train": "--max_train_steps 2 --mixed_precision no --resolution 32",
    "generate": "--num 1 --steps 2",
    "evaluate": "--features efficientnet-lite0 --num 2 --steps 1",
    "demo": "--max_train_steps 2",
    "doctor": "--quick",
    "app": "--port 0",
    "serve": "--port 0",
}
NOT_RUN = {
    "pip install -r /path/to/ComfyUI": "needs ComfyUI's own environment",
    "git clone https://github.com/huggingface/peft": "tests/integrations/test_image_gen.py runs it",
    "python -m benchmarks.families.memory": "takes minutes and 6 GB",
    "svfit evaluate --preset dreambooth": "needs the photos, and hours on a GPU",
}
NO_COMMANDS = ("instance_data_dir:", "W' =", "c_k =", "sqrt(", "h' =", "upstream svfit {")
LONG = re.compile(
    r"svfit (app|serve|demo|evaluate)|^pip install --|^git|replicas|Client|127\.0\.0\.1"
)
FOUND, OTHERS = blocks()
UNIQUE = list({block.text: block for block in FOUND}.values())


def cases(long):
    """The blocks that take long, or the others."""
    found = [block for block in UNIQUE if bool(LONG.search(block.text)) == long]
    return [pytest.param(block, id=str(block)) for block in found]


def test_all_blocks_are_found():
    assert len(UNIQUE) >= 20 and {block.python for block in UNIQUE} == {True, False}
    for block in OTHERS:
        assert block.text.startswith(NO_COMMANDS), f"{block}: say how to run it"


@pytest.fixture(scope="module")
def template(base_folder, tmp_path_factory):
    """A user's folder and the Hub's local cache, to be copied."""
    home = tmp_path_factory.mktemp("template")
    make_hub_cache(home / "hub", base_folder)
    return make_scratch(home / "scratch", base_folder), home / "hub"


@pytest.fixture
def scratch(template, tmp_path, monkeypatch):
    """A user's folder, where the test is; the bases that pages name are in the Hub's cache."""
    folder = shutil.copytree(template[0], tmp_path / "scratch")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(template[1]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SVFIT_HOME", str(tmp_path / "data"))
    (tmp_path / "home" / ".zfunc").mkdir(parents=True)
    command = tmp_path / "bin" / "svfit"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m svfit_diffusion.cli "$@"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


@pytest.mark.parametrize("block", cases(long=False))
def test_a_block_runs(block, scratch, monkeypatch):
    if block.python:
        run_python(block.text, scratch)
        return
    for command in block.commands:
        run_command(command, scratch, monkeypatch)


def run_python(text, scratch):
    """Run a block of Python; pictures that it names are there afterwards."""
    path = scratch / "block.py"
    path.write_text(text)
    pictures = [scratch / name for name in re.findall(r'"([\w/]+\.png)"', text)]
    for picture in pictures:
        picture.unlink(missing_ok=True)
    runpy.run_path(str(path), run_name="__main__")
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def run_command(command, scratch, monkeypatch):
    """Run a command; what it says it makes is there afterwards."""
    for begin, reason in NOT_RUN.items():
        if command.startswith(begin):
            pytest.skip(reason)
    first, *rest = shlex.split(command)
    if first == "make":
        subprocess.run(["make", "--dry-run", *rest], cwd=ROOT, check=True, capture_output=True)
    elif first == "svfit" and not re.search(r" [>|] ", command):
        run_svfit(rest, scratch, monkeypatch)
    else:
        command = command.replace("/path/to", str(scratch)).replace("python ", f"{sys.executable} ")
        code = f"set -e; cd {ROOT}; {command}" if first == "python" else f"set -e; {command}"
        subprocess.run(["bash", "-c", code], check=True, capture_output=True)
        assert all(Path(path).expanduser().stat().st_size for path in re.findall(r"> (\S+)", code))


def run_svfit(words, scratch, monkeypatch):
    """Run `svfit` in this process, with smaller settings; BASE stands for any base."""
    words = ["toybox" if word == "BASE" else word for word in words]
    arguments = [*words, *SMALL.get(words[0], "").split()]
    output = words[words.index("--output_dir") + 1] if "--output_dir" in words else None
    if output:  # a user's folder, before this command
        shutil.rmtree(scratch / output, ignore_errors=True)
    if "--config" in words:  # made by the training that the page spoke of
        first = "train --instance_data_dir photos/rex --output_dir first --instance_prompt"
        base = "--pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5"
        assert main([*first.split(), "a sks dog", *f"{base} {SMALL['train']}".split()]) == 0
        shutil.copy(scratch / "first" / "run.yaml", scratch / words[words.index("--config") + 1])
    if words[0] == "push":
        with local_hub(monkeypatch, scratch / "downloads"):
            assert main(arguments) == 0
            assert "concept.safetensors" in Hub.files["user/rex"]
        return
    assert main(arguments) == 0
    assert not output or any((scratch / output).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("block", cases(long=True))
def test_a_block_runs_that_takes_long(block, scratch, monkeypatch, tmp_path):
    if block.python:
        serve = (
            "svfit app"
            if "Client" in block.text
            else "svfit serve --base toybox --concepts concepts"
        )
        with serving(serve, scratch) as address:
            run_python(re.sub(r"http://127\.0\.0\.1:\d+", address.rstrip("/"), block.text), scratch)
        return
    if block.text.startswith("pip install --"):
        run_in_a_new_environment(block.commands, tmp_path)
        return
    for command in block.commands:
        if command.startswith("git clone"):
            git = command.replace("REPOSITORY", f"--depth 1 file://{ROOT} svfit-diffusion")
            subprocess.run(["bash", "-c", git], check=True)
            monkeypatch.chdir("svfit-diffusion")
        elif re.match(r"svfit (app|serve)|.*replicas", command):
            with serving(command, scratch) as address:
                assert httpx.get(address).status_code in (200, 404)
        else:
            run_command(command, scratch, monkeypatch)


@contextlib.contextmanager
def serving(command, scratch):
    """The address of what a command serves, until the block ends; its concepts are of Toybox."""
    concept = read_concept(sample_folder().parent / "robot.safetensors")
    for name in ("rex", "mug"):
        write_concept(concept, scratch / "concepts" / f"{name}.safetensors")
    if command.startswith("python"):
        words = [sys.executable, str(ROOT / shlex.split(command)[1]), "--port", "0"]
        words += shlex.split(command)[2:]
    else:
        words = [*shlex.split(command), *SMALL[command.split()[1]].split()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            yield re.search(r"http://[\d.:]+", line)[0]
        finally:
            process.terminate()
            process.wait(120)


def run_in_a_new_environment(commands, tmp_path):
    """Run commands in a clone of this repository, with nothing but a new Python."""
    clone, new = tmp_path / "clone", tmp_path / "environment"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", clone], check=True)
    subprocess.run([sys.executable, "-m", "venv", new], check=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean["PATH"] = f"{new / 'bin'}{os.pathsep}{clean['PATH']}"
    start = time.monotonic()
    for command in commands:
        small = f" {SMALL['demo']}" if command == "svfit demo" else ""
        subprocess.run(["bash", "-c", command + small], cwd=clone, env=clean, check=True)
    print(f"{time.monotonic() - start:.0f} s")
    assert (clone / "svfit-demo" / "sheet.png").is_file()
