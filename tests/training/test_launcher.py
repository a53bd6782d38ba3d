"""launcher.py: what `accelerate launch` says counts, unless a flag says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training.launcher import ACCUMULATION, PRECISION, launched
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator, own_accelerate_state

ROOT = Path(__file__).parents[2]


@pytest.fixture
def summaries(config):
    """`summaries(launcher's flags, ours)` runs the script under the launcher, as far as a dry run
    goes; returns what it printed as name -> text.
    """

    def run(launcher, *more):
        command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", *launcher]
        command += [str(ROOT / "train_dreambooth_svfit.py"), "--dry_run", *more]
        for name in ("pretrained_model_name_or_path", "instance_data_dir", "instance_prompt"):
            command += [f"--{name}", getattr(config, name)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr
        return dict(line.split(maxsplit=1) for line in done.stderr.splitlines() if " " in line)

    return run


def test_the_launchers_settings_count_and_are_printed(summaries):
    given = ["--mixed_precision", "bf16", "--gradient_accumulation_steps", "3"]
    found = summaries(given)
    assert found["precision"] == "bf16 (as the launcher says)"
    assert found["steps"] == "200, of 12 pictures (4 x 3 accumulated)"


def test_a_flag_of_ours_wins(monkeypatch):
    monkeypatch.setenv(PRECISION, "bf16")
    monkeypatch.setenv(ACCUMULATION, "3")
    assert launched(TrainConfig()).mixed_precision == "bf16"
    assert launched(TrainConfig()).gradient_accumulation_steps == 3
    mine = launched(TrainConfig(mixed_precision="no", gradient_accumulation_steps=1))
    assert (mine.mixed_precision, mine.gradient_accumulation_steps) == ("no", 1)


def test_a_training_is_in_the_launchers_precision(config, monkeypatch):
    monkeypatch.setenv(PRECISION, "bf16")
    with own_accelerate_state():
        accelerator = make_accelerator(config)
        training = Training(config, accelerator, progress=False)
        assert accelerator.mixed_precision == "bf16"
    assert training.base.pipe.unet.dtype == torch.bfloat16


def test_without_a_launcher_the_defaults_count(monkeypatch):
    monkeypatch.delenv(PRECISION, raising=False)
    found = launched(TrainConfig())
    assert (found.mixed_precision, found.gradient_accumulation_steps) == ("no", 1)


@pytest.mark.parametrize(("name", "text"), [(PRECISION, "fp8"), (ACCUMULATION, "many")])
def test_what_is_not_offered_is_said(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=f"launcher.*{text}.*pass --"):
        launched(TrainConfig())
