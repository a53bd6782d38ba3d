"""web: what the page says of a training before its first step."""

import re
import time
import types

import pytest
from filelock import FileLock

from svfit_diffusion.web.page import run_panel
from svfit_diffusion.web.page.train_actions import TrainActions
from svfit_diffusion.web.page.train_tab import how_long
from svfit_diffusion.web.studio.runs import Preparation, Runs
from svfit_diffusion.web.studio.workspace import Workspace


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def add(runs, number, base, **status):
    (runs.folder / f"{number:020d}").mkdir()
    run = runs._all()[-1]
    run.write_config({"training": {"pretrained_model_name_or_path": base}})
    run.write(**status)
    return run


def test_the_time_is_that_of_the_last_training_on_the_same_base(runs):
    add(runs, 1, "toybox", state="done", prepare_seconds=50.0)
    add(runs, 2, "toybox", state="failed")
    add(runs, 3, "owner/large", state="done", prepare_seconds=900.0)
    run = add(runs, 4, "toybox", state="preparing", preparing_since=time.time() - 20)
    now = runs.preparation(run)
    assert now.expected == 50.0 and 20 <= now.seconds < 30 and 40 <= now.percent < 60
    other = add(runs, 5, "owner/unknown", state="preparing", preparing_since=time.time())
    assert runs.preparation(other).percent is None


def test_the_form_says_minutes_as_the_last_training_on_the_base_took(runs):
    workspace = types.SimpleNamespace(runs=runs, pipeline=types.SimpleNamespace(source="toybox"))
    first = how_long(workspace)
    assert first.startswith("quick: 100 steps · ") and "after the first training" in first
    add(runs, 1, "toybox", state="done", prepare_seconds=60.0, step_seconds=1.2)
    add(runs, 2, "owner/large", state="done", prepare_seconds=900.0, step_seconds=30.0)
    add(runs, 3, "toybox", state="failed", prepare_seconds=None)
    said = how_long(workspace)
    assert "quick: about 3 min (100 steps) · balanced: about 5 min (200 steps)" in said
    assert "thorough: about 9 min (400 steps) · auto: until" in said


def test_the_page_counts_the_seconds_of_the_preparation(runs):
    add(runs, 1, "toybox", state="done", prepare_seconds=50.0)
    run = add(runs, 2, "toybox", state="preparing", preparing_since=time.time() - 20)
    pipeline = types.SimpleNamespace(base="toybox")
    actions = TrainActions(Workspace(pipeline, types.SimpleNamespace(), runs, None))
    with FileLock(run.folder / "alive.lock"):
        seen, view, *_ = actions.show("")
        assert re.search(r"for 2\d s · about (2\d|30) s left, as the last time", view)
        assert "what is behind the subject" in view and 'class="bar"' in view
        time.sleep(1.1)
        assert actions.show(seen)[0] != seen, "it is shown again, though the status is the same"


def test_a_preparation_without_a_precedent_has_no_bar():
    status = {"state": "preparing", "summary": {"steps": "100"}}
    first = run_panel.run(status, preparation=Preparation(5, None))
    assert "for 5 s<" in first and "bar" not in first and "What is trained" in first
    late = run_panel.run(status, preparation=Preparation(100, 50))
    assert "width:99.0%" in late and "left" not in late
