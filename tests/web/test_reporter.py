"""web.studio.reporter: what a training reports of itself, with a clock of our own."""

import contextlib
import types

import pytest

from svfit_diffusion.web.page import run_panel
from svfit_diffusion.web.studio import reporter
from svfit_diffusion.web.studio.reporter import PREVIEW_TIME_SHARE, Reporter
from svfit_diffusion.web.studio.runs import Run


class Training:
    """What the reporter reads of a training; its previews take two seconds."""

    def __init__(self, clock, step=0):
        self.clock, self.step, self.stopped, self.ended, self.length = clock, step, "", False, None
        self.remarks, self.parameters, self.model, self.finished = [], {}, None, False
        self.fixed_noise = types.SimpleNamespace(error=lambda model: 0.5)
        self.subject = types.SimpleNamespace(backgrounds=[])

    def as_written(self):
        return contextlib.nullcontext()

    def steps(self, report, durations):
        for seconds in durations:
            self.clock.now += seconds
            self.step += 1
            report(self, 0.4)


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(reporter, "time", types.SimpleNamespace(monotonic=lambda: clock.now))

    def preview(self, training):
        clock.now += 2

    monkeypatch.setattr(Reporter, "_save_preview", preview)
    return clock


def test_the_time_left_is_that_of_the_last_steps(clock, tmp_path):
    run = Run(tmp_path)
    report, training = Reporter(run, 100, 0), Training(clock)
    training.steps(report, [900])  # the preparation counts as no step
    assert run._read_status()["left"] is None
    shown = run_panel.run(run._read_status() | {"state": "training"})
    assert "step 1 of 100" in shown and " left" not in shown
    training.steps(report, [2, 2, 60, 2, 2, 2])  # another program took the processor for a while
    left = 2 * (100 - 7) / (1 - PREVIEW_TIME_SHARE)
    assert run._read_status()["left"] == pytest.approx(left)
    assert run._read_status()["step_seconds"] == pytest.approx(2 / (1 - PREVIEW_TIME_SHARE))
    assert "4 min left" in run_panel.run(run._read_status() | {"state": "training"})
    training.steps(report, [10] * 20)
    assert run._read_status()["left"] == pytest.approx(10 * (100 - 27) / (1 - PREVIEW_TIME_SHARE))


def test_after_a_resume_the_steps_before_do_not_count(clock, tmp_path):
    run = Run(tmp_path)
    training = Training(clock)
    training.steps(Reporter(run, 100, 0), [900, 1, 1])
    clock.now += 5_000
    training.steps(Reporter(run, 100, 0), [900, 4, 4, 4])
    status = run._read_status()
    assert [step for step, _ in status["losses"]] == list(range(1, 8))
    assert status["left"] == pytest.approx(4 * (100 - 7) / (1 - PREVIEW_TIME_SHARE))


def test_a_length_that_is_automatic_has_no_time_left(clock, tmp_path):
    run = Run(tmp_path)
    Training(clock).steps(Reporter(run, None, 0), [900, 1, 1])
    assert run._read_status()["left"] is None
    assert "ends by itself" in run_panel.run(run._read_status() | {"state": "training"})
