"""averaging.py: the running average of a training is what its file holds, and goes on with it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_pipelines import run, same

from svfit_diffusion.concept.packing import round_to_four_bits, round_vector
from svfit_diffusion.settings import TrainConfig

STEPS = 6


def recorded(config, **changes):
    """The trained concept, and each parameter after each step."""
    seen = {}

    def report(training, loss):
        for name, parameter in training.parameters.items():
            seen.setdefault(name, []).append(parameter.detach().numpy().copy())

    made = run(config, report, max_train_steps=STEPS, learning_rate=0.05, **changes)
    return made.concept, seen


def by_hand(values, decay):
    """The average of values after steps: over few at first, then over about 1 / (1 - decay)."""
    found = values[0].astype(float)
    for before, value in enumerate(values[1:], 1):
        weight = min(decay, 1 - (1 + before) ** -0.75)
        found = weight * found + (1 - weight) * value
    return found.astype(np.float32)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.97])
def test_the_file_holds_the_average_of_the_steps(config, decay):
    concept, seen = recorded(config, ema_decay=decay)
    (common,) = (values for name, values in seen.items() if name.endswith(".common"))
    wanted = by_hand(common, decay) if decay else common[-1]
    assert np.allclose(concept.common, round_vector(wanted), rtol=1e-4, atol=1e-6)
    deltas = [
        round_to_four_bits(by_hand(values, decay) if decay else values[-1])
        for name, values in seen.items()
        if "token" not in name and not name.endswith("common")
    ]
    assert np.allclose(np.sort(concept.deltas), np.sort(np.concatenate(deltas)), atol=1e-5)
    assert not np.allclose(common[-1], common[0]), "it moved"


def test_it_goes_on_from_a_checkpoint_to_the_bit(config, tmp_path):
    whole, _ = recorded(config)
    half = replace(config, output_dir=str(tmp_path / "half"), checkpointing_steps=3)
    run(half, max_train_steps=3, learning_rate=0.05)
    resumed, _ = recorded(half, resume_from_checkpoint="latest")
    assert same(resumed, whole)
    other = replace(config, output_dir=str(tmp_path / "other"), checkpointing_steps=3)
    shutil.copytree(tmp_path / "half" / "checkpoint-3", tmp_path / "other" / "checkpoint-3")
    last, _ = recorded(other, resume_from_checkpoint="latest", ema_decay=0.0)
    assert not same(last, whole)


def test_a_decay_of_1_would_never_learn():
    with pytest.raises(ValueError, match="ema_decay is 1.0, but must be below 1"):
        TrainConfig(ema_decay=1.0)
