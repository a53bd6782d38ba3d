"""Layers over real four-bit weights: bitsandbytes' Linear4bit, which runs on the CPU too.

diffusers loads such weights on a GPU only, so the tiny models' Linears are replaced by hand.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from helpers.tiny_pipelines import load, make_concept, picture
from torch import nn

from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.adapter.basis import Basis
from svfit_diffusion.adapter.layer import SVFitLinear
from svfit_diffusion.adapter.tuner import layers
from svfit_diffusion.pipeline.fusing import fuse_concepts
from svfit_diffusion.pipeline.loading import load_concept, remove_concept

pytestmark = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def in_four_bits(model: nn.Module) -> dict[str, torch.Tensor]:
    """Replace a model's Linears; returns name -> the weight that each now multiplies by."""
    import bitsandbytes

    weights = {}
    for name, linear in list(model.named_modules()):
        if type(linear) is not nn.Linear:
            continue
        kind = bitsandbytes.nn.Linear4bit
        sides = linear.in_features, linear.out_features
        made = kind(*sides, linear.bias is not None, torch.float32, quant_type="nf4")
        made.load_state_dict(linear.state_dict())
        made = made.to("cpu").requires_grad_(False)  # which quantises
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made)
        state = made.weight.quant_state
        weights[name] = bitsandbytes.functional.dequantize_4bit(made.weight.data, state).float()
    return weights


@pytest.mark.filterwarnings("ignore")
def test_a_concept_on_four_bits_is_the_dense_edit_of_the_rounded_weights(base_folder):
    """The basis is the published weight's; what it is added to is what four bits hold. The deltas
    get the gradient of that edit.
    """
    base, concept = load(base_folder), make_concept(load(base_folder), trigger=False)
    pipe, dense = load(base_folder), load(base_folder)
    rounded = in_four_bits(pipe.unet)
    changed = [(w - base.unet.get_submodule(n).weight).norm() for n, w in rounded.items()]
    assert len(rounded) > 20 and min(changed) > 0
    plain = picture(pipe)
    load_concept(pipe, concept, strength=0.7, name="rex")
    models = {part: getattr(base, part) for part in concept.targets}
    plan = layout(models, concept.targets)
    parts = np.split(concept.deltas.astype(float), np.cumsum(concept.ranks)[:-1])
    for name, weight in rounded.items():
        dense.unet.get_submodule(name).weight.data = weight.clone()
    for place, delta in zip(plan, parts, strict=True):
        own = getattr(base, place.part).get_submodule(place.local).weight.detach().double()
        u, _, vt = torch.linalg.svd(own, full_matrices=False)
        edit = 0.7 * (u[:, : len(delta)] * torch.from_numpy(delta)) @ vt[: len(delta)]
        getattr(dense, place.part).get_submodule(place.local).weight.data += edit.float()
    got, wanted = picture(pipe), picture(dense)
    assert (got - wanted).norm() < 1e-4 * wanted.norm() and not torch.equal(got, plain)
    layer = next(iter(layers(pipe.unet).values()))
    assert type(layer.base_layer).__name__ == "Linear4bit" and isinstance(layer, SVFitLinear)
    fuse_concepts(pipe)
    assert torch.isfinite(picture(pipe)).all()
    remove_concept(pipe, "rex")


def test_the_gradient_on_four_bits_is_the_dense_edits():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32))
    u, s, vt = torch.linalg.svd(net[0].weight.detach(), full_matrices=False)
    rounded = in_four_bits(net)["0"]
    layer = SVFitLinear(net[0])
    groups = torch.arange(1, 5, dtype=torch.int32)
    layer.update_layer("a", Basis(u[:, :4], s[:4], vt[:4].T, groups))
    layer.set_adapter("a")
    x, delta = torch.randn(7, 64), layer.svfit_delta["a"]
    delta.data.copy_(torch.randn(4))
    weight = (rounded + (u[:, :4] * delta.detach()) @ vt[:4]).double().requires_grad_()
    wanted = x.double() @ weight.T + net[0].bias.double()
    wanted.square().sum().backward()
    found = layer(x)
    found.square().sum().backward()
    by_hand = torch.einsum("or,oi,ri->r", u[:, :4].double(), weight.grad, vt[:4].double())
    assert torch.allclose(found.double(), wanted, atol=1e-4)
    assert torch.allclose(delta.grad.double(), by_hand, rtol=1e-4)
