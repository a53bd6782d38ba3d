"""Fixtures: the app's own parts on the tiny base, served as `svfit app` serves it."""

from dataclasses import replace

import pytest
from helpers.tiny_pipelines import load, make_concept

from svfit_diffusion.concept.file import write_concept
from svfit_diffusion.web.service import server
from svfit_diffusion.web.service.assembly import build_app
from svfit_diffusion.web.studio.history import History
from svfit_diffusion.web.studio.library import Library
from svfit_diffusion.web.studio.runs import Runs
from svfit_diffusion.web.studio.shared_pipeline import SharedPipeline
from svfit_diffusion.web.studio.workspace import Workspace


@pytest.fixture(scope="module")
def files(base_folder, tmp_path_factory):
    """Concept files of the tiny base by name, and some that cannot be used."""
    folder, pipe = tmp_path_factory.mktemp("files"), load(base_folder)
    rex, max_ = (make_concept(pipe, seed=s, token=t) for s, t in ((1, "sks"), (2, "zwx")))
    evil = {"token": "<img src=x onerror=alert(1)>", "class_word": "\x1b[2J"}
    made = {"rex": rex, "max": max_, "evil": replace(rex, **evil)}
    made["other"] = replace(rex, fingerprints=dict.fromkeys(rex.fingerprints, "0" * 32))
    paths = {name: write_concept(c, folder / f"{name}.safetensors") for name, c in made.items()}
    paths["bad"] = folder / "bad.safetensors"
    paths["bad"].write_bytes(b"no concept")
    return paths


@pytest.fixture(scope="module")
def workspace(base_folder, files, tmp_path_factory):
    """The app's own parts, with two concepts in the library, and one of another base."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVFIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        workspace = Workspace(
            SharedPipeline(str(base_folder)), Library(home), Runs(home), History(home)
        )
    for name in ("rex", "max", "other"):
        workspace.library.add(files[name])
    return workspace


@pytest.fixture(scope="module")
def url(workspace, tmp_path_factory):
    """The address of the app, served as `svfit app` serves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = build_app(workspace)
        yield server.launch(page, "127.0.0.1", None)[1]
        page.close(verbose=False)
