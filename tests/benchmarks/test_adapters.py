"""benchmarks/likeness: adapters.py, and forms.py, deltas that the product does not have."""

import pytest
import torch
from helpers.tiny_pipelines import make_pipeline

from benchmarks.likeness.adapters import NAME
from benchmarks.likeness.forms import Weighted, attach
from svfit_diffusion.adapter.tuner import layers

VALUES = 50


@pytest.fixture
def models():
    pipe = make_pipeline()
    found = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    for model in found.values():
        model.requires_grad_(False)
    return found


def predict(models, times=500.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = models["text_encoder"](torch.arange(1, 9)[None].repeat(2, 1)).last_hidden_state
    width = models["unet"].config.in_channels
    noisy = torch.randn(2, width, 8, 8, generator=generator)
    return models["unet"](noisy, times, states).sample


def trained(models, kind, options, steps=4):
    """An adapter after some steps of plain descent."""
    adapter = attach(kind, options, models, "unet")

    def loss(number):
        return predict(models, seed=number).square().mean()

    adapter.begin(loss)
    optimizer = torch.optim.Adam(adapter.parameters, 1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        adapter.before_step(step)
        optimizer.step()
        adapter.after_step(step)
    return adapter


def deltas(models):
    return [
        layer.svfit_delta[NAME] for model in models.values() for layer in layers(model).values()
    ]


@pytest.mark.parametrize("over", [0, 3])
def test_a_budget_of_values_is_spent_where_gradients_are_largest(models, over):
    adapter = trained(models, "chosen", {"r": 16, "values": VALUES, "over": over})
    changed = torch.cat(deltas(models)) != 0
    assert 0.8 * VALUES <= changed.sum() <= VALUES, "ties share a mean, which may be 0"
    squares, masks = torch.cat(adapter.squares), torch.cat(adapter.masks).bool()
    assert masks.sum() == VALUES and (changed & ~masks).sum() == 0
    if not over:
        assert squares[masks].min() >= squares[~masks].max()
    assert adapter.sizes == [VALUES] and adapter.mask_bytes == -(-len(masks) // 8)


def test_shared_deltas_have_the_rank_of_their_factors_and_its_gradient(models):
    adapter = attach("shared", {"r": 8, "k": 2}, models, "unet")
    for rows, places, _ in adapter.products:
        torch.nn.init.normal_(places, std=0.1)
        rows.grad = places.grad = None
    adapter.after_step(0)
    held = torch.stack([layer.svfit_delta[NAME] for layer in layers(models["unet"]).values()])
    assert torch.linalg.matrix_rank(held, rtol=1e-4) == 2

    predict(models).square().mean().backward()
    adapter.before_step(0)
    rows, places, _ = adapter.products[0]
    with torch.no_grad():  # by a difference
        before = predict(models).square().mean().double()
        places[3, 1] += 1e-2
        adapter.after_step(0)
        after = predict(models).square().mean().double()
    assert (after - before) / 1e-2 == pytest.approx(float(places.grad[3, 1]), rel=0.05)
    assert sum(adapter.sizes) == sum(2 * (len(d) + 8) for _, _, d in adapter.products)


def test_a_weighted_basis_leans_to_outputs_with_large_gradients(models):
    """With the same gradient everywhere it is the plain one, up to signs."""
    plain = attach("svfit", {"r": 4}, models, "unet")
    held = [layer for model in models.values() for layer in layers(model).values()]
    before = [next(iter(layer.svfit_U.values())).clone() for layer in held]
    adapter = Weighted.__new__(Weighted)
    adapter.models, adapter.options = models, plain.options

    def even(number):
        return sum(layer.get_base_layer().weight.sum() for layer in held)

    adapter.begin(even)
    for layer, U in zip(held, before, strict=True):
        found = next(iter(layer.svfit_U.values()))
        torch.testing.assert_close((found * U).sum(0).abs(), torch.ones(4), rtol=0, atol=2e-3)

    def first_output(number):
        return sum(layer.get_base_layer().weight[0].sum() for layer in held)

    adapter.begin(first_output)
    for layer, U in zip(held, before, strict=True):
        found = next(iter(layer.svfit_U.values()))
        assert not torch.allclose((found * U).sum(0).abs(), torch.ones(4), atol=1e-2)
    assert not any(layer.get_base_layer().weight.requires_grad for layer in held)


def test_falling_deltas_are_weaker_with_noise_as_scaled_ones_are(models):
    adapter = attach("falling", {"r": 8, "least": 0.2}, models, "unet")
    with torch.no_grad():
        for delta in adapter.parameters:
            delta.normal_(std=0.3)
        for times, strength in ((0.0, 1.0), (1000.0, 0.2)):
            seen = predict(models, times)
            for layer in layers(models["unet"]).values():
                layer.svfit_scaling[NAME] = strength
            hooks, models["unet"]._forward_pre_hooks = models["unet"]._forward_pre_hooks, {}
            for layer in layers(models["unet"]).values():
                layer.svfit_batch.clear()
            torch.testing.assert_close(predict(models, times), seen, rtol=1e-4, atol=1e-5)
            models["unet"]._forward_pre_hooks = hooks
            for layer in layers(models["unet"]).values():
                layer.svfit_scaling[NAME] = 1.0


@pytest.mark.parametrize("kind, options", [("core", {"r": 3}), ("svfit", {"r": 3}), ("full", {}),
                                           ("LoraConfig", {"r": 2}), ("whole", {})])  # fmt: skip
def test_an_adapter_learns_and_counts_what_it_learns(models, kind, options):
    adapter = trained(models, kind, options)
    assert adapter.denoiser and adapter.text
    assert sum(adapter.sizes) == sum(p.numel() for p in adapter.parameters)
    before = predict(models)
    with torch.no_grad():
        for parameter in adapter.parameters:
            parameter.add_(0.1)
    assert not torch.equal(predict(models), before)
