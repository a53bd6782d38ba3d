"""objective.py: what a batch's loss is made of, each term by itself and by hand."""

from dataclasses import replace

import pytest
import torch
from helpers.tiny_pipelines import load
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from svfit_diffusion.data.examples import sample_batch
from svfit_diffusion.training.fixed_noise import FixedNoise
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.objective import Objective
from svfit_diffusion.training.runtime import make_accelerator


def prepared(config):
    return Training(config, make_accelerator(config), progress=False)


def objective_of(training, config):
    return Objective(config, training.accelerator, training.base, training.subject)


@torch.no_grad()
def loss_of(training, config, number=0):
    return objective_of(training, config).loss(training.model, number).item()


@torch.no_grad()
def test_prior_preservation_adds_the_class_images_loss_times_its_weight(config, tmp_path):
    """Oracle: two trainings on one kind of picture each; the class images' has the next seed."""
    prior = {"with_prior_preservation": True, "class_data_dir": str(tmp_path / "class")}
    config = replace(config, **prior, num_class_images=3)
    training = prepared(config)
    both, held = {}, training.subject.class_examples
    for weight in (0.0, 0.25, 1.0, 3.0):
        both[weight] = loss_of(training, replace(config, prior_loss_weight=weight))
    training.subject.class_examples = None
    alone = loss_of(training, config)
    training.subject.examples = held
    prior = loss_of(training, replace(config, seed=config.seed + 1))
    assert prior > 0.1 and abs(prior - alone) > 1e-3
    for weight, loss in both.items():
        assert loss == pytest.approx(alone + weight * prior, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weights_each_picture(config, base_folder, tmp_path, kind):
    """min(SNR, gamma) / SNR of noise, / (SNR + 1) of velocity (arXiv 2303.09556), by hand."""
    pipe = load(base_folder, torch.float16)
    pipe.scheduler.register_to_config(prediction_type=kind)
    pipe.save_pretrained(tmp_path / "base")
    config = replace(
        config, pretrained_model_name_or_path=str(tmp_path / "base"), train_batch_size=8
    )
    training = prepared(config)
    (part,) = training.objective._sample(training.subject.examples, 0, range(8))
    errors, steps = training.objective.errors(training.model, [part])
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[steps]
    snr = kept / (1 - kept)
    assert snr.min() < 5 < snr.max()
    weights = snr.clamp(max=5) / (snr + (kind == "v_prediction"))
    assert loss_of(training, config) == pytest.approx(errors.mean().item(), rel=1e-5)
    weighted = (weights * errors.double()).mean().item()
    assert loss_of(training, replace(config, snr_gamma=5.0)) == pytest.approx(weighted, rel=1e-5)


def test_noise_offset_is_one_number_for_each_channel_of_a_picture(config):
    """noise + offset * N(0, 1) of each channel: what it adds is constant over a channel."""
    examples = prepared(config).subject.examples
    plain, moved = (sample_batch(examples, 0, range(200), 1000, k).noise for k in (0.0, 0.3))
    added = moved - plain
    assert torch.allclose(added, added.mean((2, 3), keepdim=True).expand_as(added), atol=1e-6)
    each = added.mean((2, 3)).flatten()
    assert abs(each.mean()) < 0.04 and abs(each.std() - 0.3) < 0.04


@torch.no_grad()
def test_the_loss_at_fixed_noise_is_the_mean_over_photos_and_timesteps(config):
    """Of each photo at 125, 375, 625 and 875, not weighted, by the objective's own errors."""
    training = prepared(config)
    parts = training.fixed_noise.parts
    steps = torch.cat([part.batch.steps for part in parts])
    assert sorted(steps.tolist()) == sorted([125, 375, 625, 875] * 3)
    errors = torch.cat([training.objective.errors(training.model, [p])[0] for p in parts])
    found = training.fixed_noise.error(training.model)
    assert found == pytest.approx(errors.mean().item(), rel=1e-6)


def test_the_error_is_averaged_where_there_is_float64():
    """Apple's GPUs have none."""

    class Mps(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is torch.Tensor.double:
                raise TypeError("the MPS framework doesn't support float64")
            found = super().__torch_function__(func, types, args, kwargs or {})
            return found.as_subclass(torch.Tensor) if func is torch.Tensor.cpu else found

    noise = FixedNoise.__new__(FixedNoise)
    noise.errors = lambda model: torch.tensor([1.0, 2.0]).as_subclass(Mps)
    assert noise.error(None) == 1.5


def test_processes_share_what_is_trained_alone(config):
    """Frozen weights may wait elsewhere (here: nowhere), and are the same in every process."""
    training = prepared(config)
    for module in training.model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if not weight.requires_grad:
                elsewhere = weight.detach().to("meta")
                module.register_parameter(name, nn.Parameter(elsewhere, requires_grad=False))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        shared = DistributedDataParallel(training.model)
        weights = dict(training.model.named_parameters())
        shares = weights.keys() - shared.parameters_to_ignore
        assert shares == {name for name, weight in weights.items() if weight.requires_grad}
    finally:
        distributed.destroy_process_group()
