"""common.py: one vector that all layers of an adapter share, against dense edits of weights."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.dense import edit
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from svfit_diffusion import SVFitConfig
from svfit_diffusion.adapter.basis import Basis, factorize
from svfit_diffusion.adapter.common import numbers_of, places_for, reading
from svfit_diffusion.adapter.layer import SVFitLinear
from svfit_diffusion.adapter.tuner import common_parameter, get_common, layers, set_common
from svfit_diffusion.concept import place_numbers

NAMES = ("first", "second", "third")


class Chain(nn.Module):
    """x through all three."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.third = nn.Linear(12, 20), nn.Linear(20, 9), nn.Linear(9, 16)

    def forward(self, x):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


def tuned(common=64, names=NAMES, adapter="default", model=None, seed=1, r=4):
    """A Chain with an adapter of random values."""
    config = SVFitConfig(r=r, target_modules=list(names), common=common)
    if isinstance(model, PeftModel):
        model.add_adapter(adapter, config)
    else:
        model = get_peft_model(model or Chain(), config, adapter_name=adapter)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers(model).values():
            if adapter in layer.svfit_delta:
                layer.svfit_delta[adapter].copy_(torch.randn(r, generator=random))
        set_common(model, adapter, torch.randn(common, generator=random))
    return model


def dense(model, *adapters, strength=1.0):
    """The Chain with the edits of these adapters in its weights."""
    plain, common = Chain(), {name: get_common(model, name) for name in adapters}
    for path, layer in layers(model).items():
        name = path.rpartition(".")[2]
        weight = getattr(plain, name).weight
        for adapter in adapters:
            if adapter in layer.svfit_delta:
                delta = layer.svfit_delta[adapter].detach().numpy()
                added = edit(name, getattr(Chain(), name).weight.detach().numpy(), delta,
                             common[adapter].numpy())  # fmt: skip
                weight.data += strength * torch.from_numpy(added).float()
    return plain


X = torch.randn(7, 12, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def alike(model, other, x=X):
    return torch.allclose(model(x), other(x), atol=1e-5)


def test_all_layers_share_one_parameter_and_each_arranges_it_anew():
    model = tuned()
    shared = [p for name, p in model.named_parameters() if "svfit_common" in name]
    assert len(shared) == 1 and shared[0] is common_parameter(model, "default")
    assert alike(model, dense(model, "default")) and not alike(model, Chain())
    model.merge_adapter()
    assert alike(model, dense(model, "default"))
    model.unmerge_adapter()
    for layer in layers(model).values():
        layer.set_scale("default", -0.3)
    assert alike(model, dense(model, "default", strength=-0.3))


def test_its_gradient_is_that_of_the_dense_edits():
    model = tuned()
    model(X).square().sum().backward()
    grad, step = common_parameter(model, "default").grad, 1e-3
    for number in (0, 17, 63):
        losses = []
        for sign in (1, -1):
            moved = get_common(model, "default")
            moved[number] += sign * step
            other = copy.deepcopy(model)
            set_common(other, "default", moved)
            losses.append(dense(other, "default").double()(X.double()).square().sum().item())
        wanted = (losses[0] - losses[1]) / (2 * step)
        assert grad[number].item() == pytest.approx(wanted, rel=1e-2, abs=1e-3)


def test_peft_saves_it_once_and_loads_it(tmp_path):
    model = tuned()
    model.save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert [len(v) for key, v in held.items() if "svfit_common" in key] == [64]
    assert sum(v.numel() for v in held.values()) == 64 + 3 * 4
    assert alike(PeftModel.from_pretrained(Chain(), tmp_path), model)


def test_two_adapters_have_vectors_and_owners_of_their_own():
    model = tuned()
    tuned(128, ("second", "third"), "other", model, seed=2, r=3)
    model.base_model.set_adapter(["default", "other"])
    assert alike(model, dense(model, "default", "other"))
    copied = copy.deepcopy(model)
    set_common(copied, "other", torch.zeros(128))
    assert not alike(copied, model) and alike(model, dense(model, "default", "other"))
    wanted = dense(model, "other")
    model.delete_adapter("default")
    model.base_model.set_adapter("other")
    assert alike(model, wanted)
    first = layers(model)
    assert not any(layer.svfit_places for name, layer in first.items() if name.endswith("first"))


def test_each_row_of_a_batch_by_its_adapter():
    model = tuned()
    tuned(128, NAMES, "other", model, seed=2, r=3)
    plain = Chain()
    names = ["other", "__base__", "default", "default", "other", "__base__", "other"]
    model.eval()
    with torch.no_grad():
        found = model(X, adapter_names=names)
        for row, name in enumerate(names):
            alone = plain if name == "__base__" else dense(model, name)
            assert torch.allclose(found[row], alone(X[row : row + 1])[0], atol=1e-5), name


def test_a_singular_vectors_sign_changes_nothing_and_tied_directions_are_left_out():
    weight = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    basis, common = (
        factorize(weight, 4),
        torch.randn(64, generator=torch.Generator().manual_seed(1)),
    )
    delta, flip = torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    turned = replace(basis, U=basis.U * flip, V=basis.V * flip)
    found = [b.U @ reading("to_q", b, delta, common).T for b in (basis, turned)]
    assert torch.allclose(*found, atol=1e-6)
    tied = replace(basis, groups=torch.tensor([1, 2, 2, 0], dtype=torch.int32))
    reads = reading("to_q", tied, delta, common) - tied.V * delta
    assert reads[:, 0].any() and not reads[:, 1:].any()


def test_half_precision_follows_the_signs_of_float32():
    """Rounded, some singular vectors stand on the other side of what their signs are told by."""
    random, found = torch.Generator().manual_seed(0), None
    for _ in range(100_000):
        U = torch.nn.functional.normalize(torch.randn(64, 1, generator=random), dim=0)
        if told(U) != told(U.bfloat16().float()):
            found = U
            break
    basis = Basis(found, torch.ones(1), torch.eye(8)[:, :1], torch.ones(1, dtype=torch.int32))
    layer = SVFitLinear(nn.Linear(8, 64).to(torch.bfloat16))
    layer.update_layer("a", basis, common=64, name="to_q")
    columns = layer.places("published", 64).columns
    assert torch.equal(columns, places_for(numbers_of("to_q", basis), 64).columns)
    # another factorisation, with another sign, of which the layer does not take the vectors
    other = replace(basis, U=-basis.U, V=-basis.V)
    layer.update_layer("b", other, common=128, name="to_q")
    assert torch.equal(layer.places("published", 64).columns, columns)


def told(U):
    return place_numbers("to_q", 2, U.numpy())[1].tolist()


def test_it_moves_with_its_adapter_and_half_precision_reads_it():
    model = tuned()
    for layer in layers(model).values():
        layer.move_adapter("default", "cpu")
    assert alike(model, dense(model, "default"))
    wanted = dense(model, "default")(X)
    with torch.no_grad():
        found = model.to(torch.bfloat16)(X.to(torch.bfloat16)).float()
    assert ((found - wanted).norm() / wanted.norm()).item() < 2e-2
    assert np.isfinite(found.numpy()).all()


@pytest.mark.parametrize("size", [32, 100, 65_536, -64])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(ValueError, match=f"common is {size}, but must be 0 or a power of two"):
        SVFitConfig(common=size)
