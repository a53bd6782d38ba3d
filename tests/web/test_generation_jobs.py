"""web.studio.generation_jobs: progress, and the wait for memory beside a training."""

import types

from PIL import Image

from svfit_diffusion.generation.pictures import Parameters
from svfit_diffusion.web.page import render
from svfit_diffusion.web.studio.generation_jobs import GenerationJobs
from svfit_diffusion.web.studio.history import History
from svfit_diffusion.web.studio.shared_pipeline import Job, Remark, Step
from svfit_diffusion.web.studio.workspace import Workspace


def test_a_picture_waits_for_memory_while_a_training_runs():
    active = [True, True, False, False]  # the training ends after two looks
    runs = types.SimpleNamespace(active=lambda: active.pop(0))
    pipeline = types.SimpleNamespace(
        memory_check=lambda: (False, 1_000_000, 3_000_000),
        generate=lambda job, stop: [Step(0, 1, None)],
    )
    jobs = GenerationJobs(Workspace(pipeline, None, runs, None))
    job = Job([], "a dog", 1, 0, {"steps": 4})
    *waits, last = [progress for _, progress in jobs.pictures("window", job)]
    assert len(waits) == 2 and (waits[0].done, waits[0].total) == (0, 1)
    assert "leaves 1.0 MB of memory, and a picture needs about 3.0 MB" in waits[0].message
    assert (last.message, last.done, last.total) == ("Picture 1 of 1, step 1 of 4", 1, 4)
    pipeline.memory_check, runs.active = lambda: (True, 9, 3), lambda: True
    (only,) = [progress for _, progress in jobs.pictures("window", job)]
    assert only.message.endswith("; a training is running too, so both take longer")


def test_a_remark_stays_with_the_progress_until_the_end(tmp_path):
    long, hostile = Remark("The prompt is too long."), Remark("<b>Not read.</b>")
    picture = (Image.new("RGB", (8, 8)), Parameters(seed=3))
    pipeline = types.SimpleNamespace(
        defaults=types.SimpleNamespace(steps=1),
        generate=lambda job, stop: [long, hostile, Step(0, 1, None), picture],
    )
    library = types.SimpleNamespace(entries=list)
    runs = types.SimpleNamespace(active=lambda: None)
    jobs = GenerationJobs(Workspace(pipeline, library, runs, History(tmp_path)))
    found = [progress for _, progress in jobs.pictures("window", Job([], "a dog", 1, 3, {}))]
    sentences = (long.sentence, hostile.sentence)
    assert [progress.remarks for progress in found] == [sentences, sentences]
    html = render.progress(found[-1])
    assert "too long.</p>" in html and "&lt;b&gt;Not read" in html and "bar" not in html
