"""space/: what a Hugging Face Space reads agrees with the package, and its app starts."""

import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "space"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # of the Hub


def header():
    """The settings at the top of the Space's README."""
    return yaml.safe_load((SPACE / "README.md").read_text().split("---\n")[1])


def pinned(name):
    """A package's version in constraints.txt."""
    return re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def test_the_header_is_what_the_hub_takes_and_the_package_needs():
    found = header()
    assert found["sdk"] == "gradio" and found["sdk_version"] == pinned("gradio")
    assert found["python_version"] in SpecifierSet(PROJECT["requires-python"])
    assert (SPACE / found["app_file"]).is_file() and found["license"] == PROJECT["license"].lower()
    assert {found["colorFrom"], found["colorTo"]} <= COLOURS
    assert len(found["short_description"]) <= 60


def test_the_requirements_are_this_version_and_the_tested_torch():
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    needs = {need.name: need for need in map(Requirement, lines[1:])}
    assert lines[0].startswith("--extra-index-url https://download.pytorch.org/whl/cpu")
    assert str(needs["torch"].specifier) == f"=={pinned('torch')}"
    assert str(needs["svfit-diffusion"].specifier) == f"=={PROJECT['version']}"
    assert needs["svfit-diffusion"].extras == {"app"}


@pytest.mark.slow
def test_the_app_starts_as_a_space_starts_it(tmp_path):
    """Its page answers under the Space's name, with the sample, and no password is asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        **{"GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        **{"HOME": str(tmp_path / "home"), "SVFIT_HOME": str(tmp_path / "unused")},
    }
    command = [sys.executable, str(SPACE / header()["app_file"])]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as app:
        try:
            assert f":{port}/" in app.stdout.readline()
            proxied = {"Host": "me-svfit.hf.space", "X-Forwarded-For": "203.0.113.7"}
            answer = httpx.get(f"http://127.0.0.1:{port}/config", headers=proxied)
            choices = [each["props"].get("choices") for each in answer.json()["components"]]
            assert [["sks toy", "robot"], ["none: the base alone", ""]] in choices
        finally:
            app.terminate()
    assert not (tmp_path / "unused").exists(), "nothing is kept"
