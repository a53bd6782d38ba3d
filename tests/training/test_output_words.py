"""A word in the output of a text encoder, trained on each family's tiny pipeline that has one."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_families import TINY, save_tiny, tiny_config
from helpers.trainings import empty_idle

from svfit_diffusion.families import family_of
from svfit_diffusion.training.fixed_noise import samples
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator

STEPS = 30
# FLUX.2 attends to 512 tokens, padding too, and random attention to all alike: a word of three
# letters, which are tokens here, would be three of them.
WORD = "sks" * 20
PX = {"lumina2": 128}  # its VAE makes 4 patches of 32 px, whose noise hides what was learned


@pytest.fixture(scope="module", params=TINY)
def config(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, root)
    if not family_of(str(root / "base")).word_outputs:
        pytest.skip("its text encoders are trained through")
    prompt = f"a photo of {WORD} dog"
    return replace(tiny_config(root), placeholder_token=WORD, instance_prompt=prompt,
                   learning_rate=6e-3, train_text_encoder=False, common_size=0,
                   resolution=PX.get(request.param, 32))  # fmt: skip


def trained(config, steps=STEPS, **changes):
    """A training after so many steps, and its loss on noise of no step before and after them."""
    config = replace(config, **changes)
    training = Training(config, make_accelerator(config), progress=False)
    unseen = samples(training.objective, training.subject.examples, 16)
    losses = [unseen.loss(training.model)]
    for _ in range(steps):
        training.train_step()
    return training, [*losses, unseen.loss(training.model)]


def test_the_loss_on_unseen_noise_falls_by_half_more_than_by_the_deltas_alone(config):
    _, (base, alone) = trained(config, train_token=False)
    training, (_, both) = trained(config, token_lr=5.0)
    name = training.base.family.name
    print(f"{name}: by the deltas {base - alone:.5f}, with the word {base - both:.5f}")
    assert base - both > 1.5 * (base - alone) > 0
    for part in training.base.outputs:
        encoder = getattr(training.base.pipe, part)
        assert not any(p.requires_grad for n, p in encoder.named_parameters() if "svfit" not in n)


def test_a_step_reads_no_prompt_and_resumes_from_where_it_was(config, tmp_path):
    """With `offload` the text encoder leaves after the prompts were read; the word stays."""
    training, _ = trained(config, steps=0, offload=True, output_dir=str(tmp_path / "rex"))
    base = training.base
    empty_idle(training)
    for part in base.outputs:
        held = dict(getattr(base.pipe, part).named_parameters())
        kinds = {("svfit" in name, p.device.type) for name, p in held.items()}
        assert kinds == {(True, "cpu"), (False, "meta")}
    before = {k: p.detach().clone() for k, p in training.parameters.items() if "token" in k}
    assert np.isfinite(training.train_step())
    assert all((training.parameters[k] != p).any() for k, p in before.items())
