"""Checkouts of other programs, which the environment names; without one, its tests are skipped."""

import os
from pathlib import Path

import pytest


def checkout(variable: str, part: str) -> Path:
    """The checkout that an environment variable names; part: a folder that it must have."""
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"{variable} names no checkout")
    path = Path(named).resolve()
    assert (path / part).is_dir(), f"{variable}={named} has no folder {part}"
    return path


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory):
    """ComfyUI, importable in this process, with a folder of its own."""
    from helpers import comfyui

    path = checkout("COMFYUI", "comfy")
    comfyui.start(path, tmp_path_factory.mktemp("comfyui"))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of bases of the test's own."""
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "bases"))
