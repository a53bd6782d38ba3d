"""length.py: a training that nobody gave a number of steps ends by itself, and keeps the best."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_pipelines import run, same
from helpers.trainings import elsewhere, last, stop_at
from PIL import Image

from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.concept.packing import round_to_four_bits, round_vector
from svfit_diffusion.training import length
from svfit_diffusion.training.checkpoints import read_checkpoint
from svfit_diffusion.training.length import PATIENCE, settled
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator

FAST = {  # too fast to do good, with nothing that takes it back
    "learning_rate": 5.0, "adam_weight_decay": 0.0, "token_lr": 3.0, "lr_scheduler": "constant",
}  # fmt: skip


@pytest.fixture
def auto(config, photos, tmp_path):
    """A training of automatic length on five photos, at rates that soon overshoot."""
    folder = tmp_path / "five"
    folder.mkdir()
    for i, ground in enumerate(("white", "blue", "black", "green", "gray")):
        image = Image.new("RGB", (40, 32), ground)
        image.paste((255, 0, 0), (8 + 3 * i, 8, 24 + 3 * i, 24))
        image.save(folder / f"{i}.png")
    return replace(config, instance_data_dir=str(folder), max_train_steps="auto", **FAST)


def curve_of(config, until=None, **changes):
    """A training's result, and the (step, loss) that it measured up to its last step."""
    seen = []

    def report(training, loss):
        seen[:] = training.length.curve
        if training.step == until:
            training.stopped = "for the test"

    return run(config, report, **changes), seen


def test_it_is_settled_when_the_last_measurements_gained_next_to_nothing():
    falling = [1.0 - 0.02 * i for i in range(12)]
    flat = [1.0, 0.6, 0.5] + [0.5] * 20
    assert not settled(falling) and not settled([1.0] + [0.5] * PATIENCE)
    assert settled(flat) and settled([1.0] + [2.0] * (PATIENCE + 1))
    ends = [n for n in range(len(flat)) if settled(flat[:n])]
    assert ends[0] > 2 + PATIENCE and ends == list(range(ends[0], len(flat)))


def test_it_ends_early_and_the_file_holds_the_best_and_not_the_last(auto):
    state = {}

    def report(training, loss):
        state.update(curve=list(training.length.curve), step=training.step, length=training.length)
        state["last"] = np.concatenate([p.detach().flatten() for p in training.parameters.values()])

    result = run(auto, report)
    curve, kept = state["curve"], state["length"]
    best, low = min(curve[1:], key=lambda point: point[1])
    assert best < state["step"] == curve[-1][0] < 500 and low < curve[-1][1]
    assert result.steps == result.concept.training["steps"] == best
    assert read_concept(result.path).training["photos"] == 5
    held = np.concatenate([value.flatten() for value in kept.best.values()])
    assert not np.array_equal(held, state["last"])
    values = [v.numpy() for n, v in kept.best.items() if "token" not in n and "common" not in n]
    wanted = sorted(x for v in values for x in round_to_four_bits(v))
    assert np.array_equal(np.sort(result.concept.deltas), np.array(wanted, np.float32))
    (common,) = (v.numpy() for n, v in kept.best.items() if n.endswith("common"))
    assert np.array_equal(result.concept.common, round_vector(common))
    said = f"lowest at step {best:,} of {state['step']:,} ({curve[0][1]:.4f} -> {low:.4f})"
    assert said in result.length
    assert not result.stopped and result.exit_status == 0
    stopped = run(elsewhere(auto, "stopped"), stop_at(best), max_train_steps=2_000)
    assert same(stopped.concept, result.concept), "it only decides when to end"
    until = run(elsewhere(auto, "until"), stop_at(best))
    assert same(until.concept, result.concept)


def test_one_whose_loss_only_rose_says_what_to_try(auto):
    found = Training(auto, make_accelerator(auto), progress=False).length
    found.curve = [(0, 0.37), (25, 0.36), (50, 0.38), (75, 0.39)]
    assert "lowest at step 25 of 75" in found.summary(75)
    assert found.summary(75).endswith("try a number of steps then.")
    found.curve[2] = (50, 0.35)
    assert "try" not in found.summary(75)
    found.curve = found.curve[:2]
    assert "try" not in found.summary(25), "it was stopped there"


@pytest.mark.slow
def test_a_resumed_one_ends_where_an_unbroken_one_does(auto):
    whole, parts = elsewhere(auto, "whole"), elsewhere(auto, "parts")
    unbroken, curve = curve_of(whole)
    run(parts, stop_at(60))  # between two measurements
    run(parts, stop_at(110), resume_from_checkpoint="latest")
    resumed, again = curve_of(parts, resume_from_checkpoint="latest")
    assert again == curve and resumed.steps == unbroken.steps
    assert same(resumed.concept, unbroken.concept) and last(parts) == last(whole)
    done = run(parts, resume_from_checkpoint="latest")
    assert same(done.concept, unbroken.concept), "nothing is left to train"


def test_measuring_changes_nothing_of_the_training(auto, monkeypatch):
    often = []
    for name, every in (("rare", 25), ("often", 2)):
        monkeypatch.setattr(length, "EVERY", every)
        run(elsewhere(auto, name), stop_at(6))
        (path,) = Path(elsewhere(auto, name).output_dir).glob("checkpoint-*")
        often.append({k: v for k, v in read_checkpoint(path)[0].items() if k[:5] != "best."})
    assert all(torch.equal(often[0][k], often[1][k]) for k in often[0] | often[1])


def test_what_is_measured_is_fixed_and_spread_over_all_noise_and_photos(auto):
    training = Training(auto, make_accelerator(auto), progress=False)
    assert len(training.subject.examples) == 5
    assert {p for batch, _, _ in training.length.validation.parts for p in batch.photos} == {
        *range(5)
    }
    steps = sorted(int(s) for batch, _, _ in training.length.validation.parts for s in batch.steps)
    assert len(steps) == 16 and max(np.diff(steps)) < 130 and steps[0] < 90 and steps[-1] > 910
    first = training.length.validation.loss(training.model)
    assert first == training.length.validation.loss(training.model)


def test_few_photos_end_too(auto):
    for path in sorted(Path(auto.instance_data_dir).iterdir())[2:]:
        path.unlink()
    result, curve = curve_of(auto)
    assert "lowest at step" in result.length and curve[-1][0] < 500
    assert result.concept.training["photos"] == 2


def test_prior_preservation_pictures_and_the_log(auto, tmp_path):
    prior = {"with_prior_preservation": True, "class_data_dir": str(tmp_path / "class")}
    drawn = {"validation_prompt": "sks dog", "num_validation_images": 1, "validation_steps": 30}
    log = {"report_to": "tensorboard", "num_class_images": 2}
    run(auto, stop_at(30), **prior, **drawn, **log)
    folder = Path(auto.output_dir)
    assert [p.name for p in (folder / "validation").iterdir()] == ["000030.png"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (folder / "logs").rglob("events*")
    found = EventAccumulator(str(events.parent))
    found.Reload()
    assert [e.step for e in found.Scalars("validation_loss")] == [0, 25, 30]


def test_what_it_cannot_go_on_from(auto):
    run(auto, max_train_steps=1)
    with pytest.raises(ValueError, match="checkpoint-1 was trained for a number of steps"):
        run(auto, resume_from_checkpoint="latest")
    other = elsewhere(auto, "other")
    run(other, stop_at(1))
    next(Path(auto.instance_data_dir).iterdir()).unlink()
    with pytest.raises(ValueError, match="--max_train_steps auto cannot compare its losses"):
        run(other, resume_from_checkpoint="latest")
