"""What is on the device, and when. The CPU is both places: a block at work has copies of weights,
and what waits can be told from them.
"""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from helpers.tiny_families import TINY, save_tiny, tiny_config
from helpers.tiny_pipelines import first_gradients
from torch import nn

from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training import offloading
from svfit_diffusion.training.loop import Training, train
from svfit_diffusion.training.runtime import make_accelerator


@pytest.fixture(scope="module", params=TINY)
def case(request, tmp_path_factory):
    """A family's base, and a training on it whose blocks wait in main memory."""
    root = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, root)
    config = tiny_config(root, offload="block", gradient_checkpointing=True)
    training = Training(config, make_accelerator(config), progress=False)
    denoiser = getattr(training.base.pipe, training.base.family.denoiser)
    return SimpleNamespace(config=config, training=training, denoiser=denoiser)


def waiting(denoiser):
    """The frozen weights of the blocks."""
    found = [p for b in offloading.blocks(denoiser) for p in b.parameters() if not p.requires_grad]
    return list(dict.fromkeys(found))


def test_a_step_takes_copies_of_one_block_at_a_time_and_gives_the_same_gradients(case, monkeypatch):
    """The weights that wait are overwritten, so that whatever reads them in place is wrong."""
    wanted, held = first_gradients(replace(case.config, offload="no")), waiting(case.denoiser)
    true = {weight: weight.detach().clone() for weight in held}
    lent, at_once, run = set(), [0], offloading._forward

    def lend(weight, device):
        lent.add(weight)
        return true[weight].to(device, copy=True)

    def forward(*arguments, **more):
        at_once.append(at_once[-1] + 1)
        try:
            return run(*arguments, **more)
        finally:
            at_once.append(at_once[-1] - 1)

    monkeypatch.setattr(offloading, "lend", lend)
    for block in offloading.blocks(case.denoiser):
        _, *rest = block.forward.args
        monkeypatch.setattr(block, "forward", partial(forward, block.forward.args[0], *rest))
    for weight in held:
        weight.data.fill_(torch.nan)
    try:
        case.training._backward()
    finally:
        for weight in held:
            weight.data.copy_(true[weight])
    found = {n: p.grad for n, p in case.training.parameters.items() if p.grad is not None}
    assert {*found} == {*wanted} and any(g.any() for g in wanted.values())
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6), name
    case.training.optimizer.zero_grad()
    assert lent == {*held} and max(at_once) == 1 and at_once[-1] == 0
    assert {id(p) for p in waiting(case.denoiser)} == {id(p) for p in held}


def test_most_of_the_denoiser_waits(case):
    """Nine tenths, but for tiny models with an embedding of the timestep as large as all blocks."""
    every = sum(p.nbytes for p in case.denoiser.parameters() if not p.requires_grad)
    assert sum(p.nbytes for p in waiting(case.denoiser)) > 0.1 * every


def test_moving_the_model_leaves_blocks_and_takes_deltas(case, tmp_path):
    """As accelerate and diffusers move it; the device here is the one that holds nothing."""
    config = replace(case.config, output_dir=str(tmp_path / "rex"))
    training = Training(config, make_accelerator(config), progress=False)
    denoiser = getattr(training.base.pipe, training.base.family.denoiser)
    denoiser.to("meta")
    for block in offloading.blocks(denoiser):
        for parameter in block.parameters():
            assert (parameter.device.type == "meta") == parameter.requires_grad
    denoiser.to(torch.float64)
    assert {p.dtype for p in waiting(denoiser)} == {torch.float64}


def test_recomputing_that_ends_early_gives_all_weights_back():
    """Which PyTorch does by an exception out of the block's call."""
    block = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    model = nn.Module()
    model.gradient_checkpointing, model.layers = True, nn.ModuleList([block])
    weights = list(block.parameters())
    assert offloading.offload_blocks(model, torch.device("cpu")) == sum(w.nbytes for w in weights)

    def stop(*_):
        assert not {id(p) for p in block.parameters()} & {id(w) for w in weights}
        raise RuntimeError("recomputed enough")

    block[1].register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="enough"):
        block(torch.ones(1, 2))
    assert [id(p) for p in block.parameters()] == [id(w) for w in weights]


@pytest.mark.parametrize("kind", ["flux2-klein", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_training_with_blocks_learns_the_same_concept(kind, tmp_path):
    """With previews, class images and fp8 weights."""
    save_tiny(kind, tmp_path)
    more = {"gradient_checkpointing": True, "max_train_steps": 2, "quantize": "fp8"}
    more |= {"mixed_precision": "no", "validation_prompt": "a photo of sks dog"}
    more |= {"num_validation_images": 1, "validation_steps": 2}
    config = tiny_config(tmp_path, **more)
    made = [
        train(replace(config, offload=kind, output_dir=str(tmp_path / kind)), progress=False)
        for kind in ("no", "model", "block")
    ]
    for other in made[1:]:
        assert np.array_equal(other.concept.deltas, made[0].concept.deltas)
        assert np.array_equal(other.concept.trigger_rows, made[0].concept.trigger_rows)
    pictures = [(tmp_path / kind / "validation" / "000002.png").read_bytes() for kind in
                ("no", "model", "block")]  # fmt: skip
    assert len(set(pictures)) == 1


@pytest.mark.parametrize("kind", ["model", "block"])
def test_untrained_encoders_leave_before_the_denoiser_comes(kind, tmp_path, monkeypatch):
    """The pipeline is never moved whole; the VAE and T5 come and go, each by itself, and no step
    brings them back.
    """
    save_tiny("flux", tmp_path)
    config = tiny_config(tmp_path, offload=kind, gradient_checkpointing=True)
    events, move, prepare = [], offloading._move, Accelerator.prepare

    def moved(model, device):
        events.append(type(model).__name__)
        move(model, device)

    def prepared(accelerator, *models):
        events.append("denoiser")
        return prepare(accelerator, *models)

    def whole(*_, **__):
        raise AssertionError("the pipeline was moved whole")

    monkeypatch.setattr(offloading, "_move", moved)
    monkeypatch.setattr(Accelerator, "prepare", prepared)
    monkeypatch.setattr(DiffusionPipeline, "to", whole)
    training = Training(config, make_accelerator(config), progress=False)
    training.train_step()
    training.fixed_noise.error(training.model)
    assert events[-1] == "denoiser" and events.count("denoiser") == 1
    encoders = ["CLIPTextModel", "T5EncoderModel"]
    assert events[:-1] == [*encoders, *encoders, "AutoencoderKL", "AutoencoderKL", *encoders * 2]


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="offload block without gradient_checkpointing"):
        TrainConfig(offload="block")
    with pytest.raises(ValueError, match="int8 weights are another package's"):
        TrainConfig(offload="block", gradient_checkpointing=True, quantize="int8")
    with pytest.raises(ValueError, match="quantize fp8 without gradient_checkpointing"):
        TrainConfig(quantize="fp8")
    with pytest.raises(ValueError, match="offload is 'disk'"):
        TrainConfig(offload="disk")
    assert (
        TrainConfig(offload=True).offload == "model" and TrainConfig(offload=False).offload == "no"
    )
