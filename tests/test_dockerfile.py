"""The Dockerfile, by its own lines: what is copied is there, and its steps can be run elsewhere.

`sudo python tests/dockerfile_steps.py` runs them.
"""

import json
from pathlib import Path

import pytest
from dockerfile_steps import ROOT, context, instructions

LINES = instructions((ROOT / "Dockerfile").read_text("utf-8"))


def said(name):
    """The texts of all instructions of this name."""
    return [text for each, text in LINES if each == name]


def test_continued_lines_are_one_and_an_unknown_instruction_is_refused():
    text = "# a\nFROM x\nRUN a \\\n    && b\n"
    assert instructions(text) == [("FROM", "x"), ("RUN", "a  && b")]
    with pytest.raises(ValueError, match="has ADD, which"):
        instructions("FROM x\nADD a b\n")


def test_what_is_copied_is_tracked_and_what_runs_is_in_it():
    files = set(map(str, context()))
    for text in said("COPY"):
        *sources, _ = text.split()
        assert all(source == "." or source in files for source in sources)
    needed = ("pyproject.toml", "README.md", "LICENSE", "samples/robot/robot.safetensors")
    assert files >= {*needed, "svfit_diffusion/toybox/model/model_index.json"}
    assert not {Path(name).parts[0] for name in files} & {"tests", "recipes", ".venv", "site"}


def test_it_runs_as_a_user_with_a_volume_a_password_and_a_health_check():
    (user,), (volume,), (command,) = said("USER"), said("VOLUME"), said("CMD")
    assert int(user) >= 1000 and f"--uid {user}" in said("RUN")[-1]
    assert f"chown svfit {volume}" in said("RUN")[-1] and f"SVFIT_HOME={volume}" in said("ENV")[0]
    assert "--auth" in json.loads(command)[-1] and "SVFIT_AUTH:?" in json.loads(command)[-1]
    assert json.loads(said("HEALTHCHECK")[0].partition("CMD ")[2])[:2] == ["python", "-c"]
