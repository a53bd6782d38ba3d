"""web: trainings as processes of their own, on Toybox and the tiny base, seen through the API."""

import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.training.subject import sample_folder
from svfit_diffusion.web.page import run_panel
from svfit_diffusion.web.page.train_actions import TrainActions
from svfit_diffusion.web.service import server
from svfit_diffusion.web.service.assembly import build_app
from svfit_diffusion.web.studio import runs
from svfit_diffusion.web.studio.history import History
from svfit_diffusion.web.studio.library import Library
from svfit_diffusion.web.studio.new_training import start_training
from svfit_diffusion.web.studio.runs import ACTIVE_STATES, Run, Runs
from svfit_diffusion.web.studio.shared_pipeline import SharedPipeline
from svfit_diffusion.web.studio.worker import main
from svfit_diffusion.web.studio.workspace import Workspace

PHOTOS = sorted(str(path) for path in sample_folder().glob("*.png"))
TIMEOUT = 240  # seconds; for a busy machine


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return tmp_path / "home"


def workspace_on(base, home):
    return Workspace(SharedPipeline(str(base)), Library(home), Runs(home), History(home))


def wait(run, until):
    """The status of a run once it fulfils a condition; fails where the run ends first."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        status = run.status()
        if until(status):
            return status
        assert status["state"] in ACTIVE_STATES, status.get("message")
        time.sleep(0.1)
    raise AssertionError(f"not within {TIMEOUT} s: {status}")


def worker(run):
    """The process that trains a run."""
    return next(
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and str(run.folder) in child.cmdline()
    )


def test_a_training_on_toybox_outlives_its_page_and_fills_the_library(home):
    workspace = workspace_on("toybox", home)
    page = build_app(workspace)
    url = server.launch(page, "127.0.0.1", None)[1]
    client = Client(url, verbose=False)
    photos = [handle_file(path) for path in PHOTOS]
    begun = client.predict(photos, "a robot", max_train_steps=60, name="R2", api_name="/train")
    assert begun["state"] in ACTIVE_STATES
    with pytest.raises(AppError, match="A training is running"):
        client.predict(photos, "a robot", max_train_steps=60, api_name="/train")
    made = client.predict("a photo of a dog", steps=1, api_name="/generate")
    assert len(made) == 1, "pictures are drawn beside it where memory allows"
    page.close(verbose=False)  # the app goes, the training stays
    run = Runs(home).active()
    status = wait(run, lambda s: s["state"] == "done")
    assert (status["step"], status["steps"], len(status["losses"])) == (60, 60, 60)
    assert status["loss_after"] < status["loss_before"]
    assert len(status["backgrounds"]) == 5
    assert any(status["backgrounds"]), "a tenth of 60 steps suffices for a photo"
    assert "behind it:" in TrainActions(workspace).show("")[1]
    assert run.previews() and (run.folder / "sheet.png").is_file()
    entry = Library(home).get("r2")
    word = entry.card.concept.token
    assert word.startswith("r") and len(word) == 4 and entry.preview
    assert -1 < status["likeness"] < 1 and status["file"] == "r2.safetensors" and run.scenes()
    assert read_concept(entry.path).training["steps"] == 60
    assert not list((run.folder / "photos").glob("0[5-9]*"))
    seen, view, *_, sheet, download, learned = TrainActions(workspace).show("")
    assert f"it is called “{word} robot”" in view and "before and after" in view
    assert "like your photos" in view and learned == "r2" and Path(sheet["value"]).is_file()
    assert Path(download["value"]).read_bytes() == entry.path.read_bytes()
    assert run.previews()[-1].stem == "000060", "the last step is shown"


def test_it_says_what_it_saw_behind_the_subject():
    seen = {"state": "training", "backgrounds": ["on the grass", "", "on the grass", "at night"]}
    shown = run_panel.run(seen | {"remarks": ["One <b>.", "Two."]})
    assert "behind it: on the grass, at night." in shown
    assert "One &lt;b&gt;.</p>" in shown and "Two.</p>" in shown
    for nothing in ({}, {"backgrounds": []}, {"backgrounds": ["", ""]}):
        assert "behind it" not in run_panel.run({"state": "training"} | nothing)


def test_stop_keeps_the_best_so_far_and_a_killed_one_says_so(base_folder, home):
    workspace = workspace_on(base_folder, home)
    actions = TrainActions(workspace)
    run = start_training(workspace, PHOTOS, "a dog", "", "quick", max_train_steps=9_000)
    wait(run, lambda s: s.get("step", 0) > 3)
    actions.stop()
    status = wait(run, lambda s: s["state"] not in ACTIVE_STATES)
    assert status["state"] == "stopped" and 3 < status["step"] < 9_000
    best = min(loss for _, loss in status["fixed_noise"])
    assert status["loss_after"] == pytest.approx(best, rel=2e-3), "to the file's rounding"
    assert Library(home).names() == ["dog"]

    run = start_training(workspace, PHOTOS, "a dog", "", "quick", max_train_steps=9_000)
    wait(run, lambda s: s.get("step", 0) > 0)
    worker(run).kill()
    end = time.monotonic() + TIMEOUT
    while run.alive() and time.monotonic() < end:
        time.sleep(0.1)
    assert run.status()["state"] == "failed"
    assert "without an error message, perhaps for lack of memory" in actions.show("")[1]
    assert Runs(home).active() is None and actions.show("")[4]["visible"]

    seen = Runs(home).resume().status()
    assert seen["state"] == "starting" and not seen["message"]
    with pytest.raises(ValueError, match="A training is running"):
        Runs(home).resume()
    wait(run, lambda s: s["state"] == "training")
    assert not actions.show("")[4]["visible"]
    actions.stop()
    assert wait(run, lambda s: s["state"] not in ACTIVE_STATES)["state"] == "stopped"


def test_a_stopped_training_that_is_resumed_learns_what_an_unbroken_one_does(base_folder, home):
    workspace = workspace_on(base_folder, home)
    actions = TrainActions(workspace)
    with pytest.raises(ValueError, match="There is no training to resume"):
        workspace.runs.resume()
    files, ways = [], {"unbroken": False, "broken": True}
    for name, broken in ways.items():
        run = start_training(
            workspace, PHOTOS, "a dog", "sks", "quick", max_train_steps=8, name=name
        )
        if broken:
            run.stop()
            status = wait(run, lambda s: s["state"] not in ACTIVE_STATES)
            assert status["state"] == "stopped" and status["step"] < 8
            actions.resume()
        status = wait(run, lambda s: s["state"] == "done")
        assert [step for step, _ in status["losses"]] == list(range(1, 9))
        assert status["fixed_noise"] == sorted(status["fixed_noise"], key=lambda point: point[0])
        files.append(read_concept(run.folder / name / f"{name}.safetensors"))
        assert not actions.show("")[4]["visible"], "it has all its steps"
    assert Library(home).names() == ["broken", "unbroken"], "what it was when it was stopped went"
    one, other = files
    assert np.array_equal(one.deltas, other.deltas) and one.deltas.any()


def test_one_that_ends_by_itself_shows_the_loss_that_decides(base_folder, home):
    workspace = workspace_on(base_folder, home)
    actions = TrainActions(workspace)
    run = start_training(workspace, PHOTOS, "a dog", "", "auto")
    wait(run, lambda s: s.get("step", 0) > 27)
    assert "ends by itself" in actions.show("")[1]
    actions.stop()
    status = wait(run, lambda s: s["state"] not in ACTIVE_STATES)
    assert status["state"] == "stopped" and status["steps"] is None
    assert [step for step, _ in status["fixed_noise"]][:2] == [0, 25]
    assert "The loss at fixed noise was lowest at step" in status["message"]
    entry = Library(home).get("dog")
    assert entry.card.concept.training["steps"] == status["step"] > 0


def test_a_training_that_cannot_be_fails_in_one_sentence(base_folder, home, tmp_path):
    workspace = workspace_on(base_folder, home)
    for photos, what, token, reason in (
        ([], "a dog", "", "Drop some photos"),
        (PHOTOS, "  ", "", "Say what the photos show"),
        (PHOTOS, "a dog", "two words", "cannot be a concept.s word; it must be one word"),
    ):
        with pytest.raises(ValueError, match=reason):
            start_training(workspace, photos, what, token, "quick")
    assert Runs(home).latest() is None, "nothing is left of what never started"
    gone = tmp_path / "gone"
    base_folder.rename(gone)  # after the app loaded it
    try:
        run = start_training(workspace, PHOTOS, "a dog", "", "quick")
        status = wait(run, lambda s: s["state"] not in ACTIVE_STATES)
    finally:
        gone.rename(base_folder)
    assert status["state"] == "failed" and "could not be loaded" in status["message"]
    assert "\n" not in status["message"] and "Traceback" in (run.folder / "log.txt").read_text()


def test_the_log_says_why_before_the_page_sends_anyone_to_it(tmp_path, monkeypatch, capfd):
    logged = {}

    def noted(run, **status):
        logged[status["state"]] = capfd.readouterr().err
        if status["state"] == "preparing":
            raise RuntimeError("the disk burns")

    monkeypatch.setattr(Run, "write", noted)
    assert main(str(tmp_path)) == 1
    assert "RuntimeError: the disk burns" in logged["failed"]


def test_a_file_that_another_process_has_open_is_waited_for(monkeypatch):
    monkeypatch.setattr(runs, "TRY_SECONDS", 0)
    tries = []

    def work():
        tries.append(1)
        if len(tries) < 3:
            raise PermissionError
        return "done"

    assert runs.patient(work) == "done" and len(tries) == 3
    with pytest.raises(PermissionError):
        runs.patient(lambda: (_ for _ in ()).throw(PermissionError))
