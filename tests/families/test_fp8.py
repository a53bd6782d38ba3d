"""Weights stored in fp8: a training sees the base as if it had been rounded once."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_families import TINY, save_tiny, tiny_config
from helpers.tiny_pipelines import load, picture

from svfit_diffusion.families import load_base, recognise
from svfit_diffusion.families.quantization import casts
from svfit_diffusion.training.loop import Training, train
from svfit_diffusion.training.runtime import make_accelerator

PROMPT = "a photo of sks dog"


def rounded(weight):
    """float8_e4m3fn, to nearest even, by hand: 3 bits of mantissa, exponents from -6."""
    exponent = torch.frexp(weight.double())[1].clamp(min=-5)
    step = torch.ldexp(torch.ones_like(weight, dtype=torch.float64), exponent - 4)
    return (torch.round(weight.double() / step) * step).to(weight.dtype)


@pytest.fixture(scope="module", params=TINY)
def case(request, tmp_path_factory):
    """A family's base, and the first gradients of a training on it in fp8."""
    root = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, root)
    config = tiny_config(
        root, train_token=False, quantize="fp8", gradient_checkpointing=True, mixed_precision="no"
    )
    training = Training(config, make_accelerator(config), progress=False)
    return SimpleNamespace(root=root, config=config, training=training)


def gradients(training):
    loss = training._backward()
    grads = {n: p.grad.clone() for n, p in training.parameters.items() if p.grad is not None}
    training.optimizer.zero_grad()
    return loss, grads


def round_like(pipe, stored):
    """Round, in a pipeline, the weights that another one stores in fp8; returns how many."""
    count = 0
    for part, model in stored.components.items():
        if not isinstance(model, torch.nn.Module):
            continue
        names = {id(m): n for n, m in model.named_modules()}
        for module, _ in casts(model):
            twin = getattr(pipe, part).get_submodule(names[id(module)])
            for name, weight in module.named_parameters(recurse=False):
                own = getattr(twin, name)
                own.data = rounded(own.data)
                assert torch.equal(own.data.float(), weight.data.float()), (part, names[id(module)])
                count += 1
    return count


def test_loss_and_gradients_are_those_of_weights_that_were_rounded_once(case):
    """Also those of the second step, after weights came and went for the gradient."""
    plain = replace(case.config, quantize=None, gradient_checkpointing=False)
    oracle = Training(plain, make_accelerator(plain), progress=False)
    unrounded, _ = gradients(oracle)
    assert round_like(oracle.base.pipe, case.training.base.pipe) > 10
    oracle.prompts.cache.clear()
    for _ in range(2):
        loss, wanted = gradients(oracle)
        found_loss, found = gradients(case.training)
        assert found_loss == pytest.approx(loss, rel=1e-5) and loss != unrounded
        assert {*found} == {*wanted} and any(g.any() for g in wanted.values())
        for name, gradient in wanted.items():
            assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6), name


def test_after_a_step_every_weight_is_stored_in_eight_bits_again(case):
    gradients(case.training)
    pipe = case.training.base.pipe
    model = getattr(pipe, case.training.base.family.denoiser)
    weights = [p for m, _ in casts(model) for p in m.parameters(recurse=False)]
    assert {p.dtype for p in weights} == {torch.float8_e4m3fn} and model.dtype == torch.float32
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    assert held < 0.95 * sum(4 * p.numel() for p in model.parameters())


@torch.no_grad()
def test_pictures_are_those_of_rounded_weights(case):
    """Frozen text encoders are rounded too."""
    base = str(case.root / "base")
    pipe, oracle = load_base(base, quantize="fp8"), load(base)
    round_like(oracle, pipe)
    frozen = [getattr(pipe, part) for _, part in recognise(pipe).frozen_text_encoders]
    assert all(any(casts(model)) for model in frozen)
    size = {"width": 32, "height": 32}
    wanted = picture(oracle, PROMPT, **size)
    assert torch.allclose(picture(pipe, PROMPT, **size), wanted, rtol=1e-3, atol=1e-4)


def test_the_basis_is_of_the_base_as_it_is_published(case, tmp_path):
    """So the concept fits the base in any precision: the same fingerprints, to the bit."""
    made = [
        train(
            replace(case.config, max_train_steps=1, output_dir=str(tmp_path / str(kind)),
                    quantize=kind),
            progress=False,
        ).concept
        for kind in ("fp8", None)
    ]  # fmt: skip
    assert made[0].fingerprints == made[1].fingerprints and made[0].deltas.any()
    fp8, plain = (
        {n: m.svfit_U for n, m in t.base.pipe.components[t.base.family.denoiser].named_modules()
         if hasattr(m, "svfit_U")}
        for t in (case.training, Training(replace(case.config, quantize=None),
                                          make_accelerator(case.config), progress=False))
    )  # fmt: skip
    for name, held in fp8.items():
        for key, U in held.items():
            assert torch.equal(U, plain[name][key])
