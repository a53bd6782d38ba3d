"""summary.py, preparing.py: what will be done is shown first, and --dry_run stops there."""

import logging
import os
from dataclasses import replace

import pytest
from helpers.tiny_pipelines import run

from svfit_diffusion.cli.main import main
from svfit_diffusion.training import dry_run, train
from svfit_diffusion.training.summary import StepClock, time_left


@pytest.fixture
def mixed(config, photos, tmp_path):
    """Three photos, of which one has a caption, and a file that is no photo."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in photos.iterdir():
        os.link(path, folder / path.name)
    (folder / "1.txt").write_text("sks stuffed animal at night")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    prompt = "a photo of sks stuffed animal"
    return replace(config, instance_data_dir=str(folder), instance_prompt=prompt)


def test_it_says_all_that_was_decided(mixed):
    found = dry_run(replace(mixed, num_train_epochs=6, mixed_precision="bf16"))
    assert found["base"].endswith("tiny (family sd)")
    assert found["photos"] == "3 used, 1 skipped (notes.pdf)"
    assert found["captions"] == "1 read, 2 as 'a photo of sks stuffed animal'"
    assert found["class word"].startswith("stuffed animal (understood from the prompt")
    assert found["trigger"] == "sks (learned)"
    assert (
        "(unet: both, text_encoder: self), 4,096 of a common vector and 128 values"
        in found["trained"]
    )
    assert found["steps"] == "12, of 2 pictures (2)"
    assert (found["precision"], found["device"]) == ("bf16", "cpu")
    given = dry_run(replace(mixed, initializer_token="dog", caption_backgrounds=True))
    assert given["class word"] == "dog"
    assert given["captions"].endswith("and what the base sees behind the subject")


def test_the_file_is_as_large_as_is_said(config):
    expected = dry_run(config)["file"]
    result = run(config)
    size = result.path.stat().st_size
    assert f"about {size / 1000:.1f} KB" in expected


def test_a_dry_run_writes_nothing(config, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    names = ("pretrained_model_name_or_path", "instance_data_dir", "instance_prompt", "output_dir")
    command = [f"--{name}={getattr(config, name)}" for name in names]
    command += ["--with_prior_preservation", f"--class_data_dir={tmp_path}/class"]
    before = sorted(tmp_path.rglob("*"))
    with caplog.at_level(logging.INFO):
        assert main(["train", "--dry_run", "--report_to=tensorboard", *command]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "class word    dog" in caplog.text
    assert "0 in " in caplog.text and "100 to be generated" in caplog.text


def test_a_training_shows_it_before_it_starts(config, caplog):
    seen, given = [], replace(config, max_train_steps=3)
    with caplog.at_level(logging.INFO):
        train(
            given,
            progress=False,
            report=lambda training, _: seen.append(training.step),
            on_summary=lambda summary: seen.append(summary["class word"][:3]),
        )
    assert seen == ["dog", 1, 2, 3]
    said = [record.getMessage() for record in caplog.records]
    places = [next(i for i, text in enumerate(said) if text.startswith(start))
              for start in ("class word", "steps", "device")]  # fmt: skip
    timed = next(i for i, text in enumerate(said) if "s a step, about 0 s to go." in text)
    assert places == sorted(places) and timed > places[-1]


def test_the_time_is_said_once_after_the_third_step(monkeypatch):
    clock = StepClock()
    said = [clock.step(left) for left in (9, 8, 7, 6, 5)]
    assert [bool(text) for text in said] == [False, False, True, False, False]
    assert time_left(6.0, 3, 300) == "2 s a step, about 10 min to go."
    assert time_left(0.3, 3, 10) == "0.1 s a step, about 1 s to go."
    assert time_left(900.0, 3, None) == "300 s a step."
