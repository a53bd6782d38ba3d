"""Forms of our deltas that the product does not have, and all adapters by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.likeness.adapters import (
    NAME,
    Adapter,
    AllWeights,
    AttentionWeights,
    Cores,
    Deltas,
    Loss,
    Peft,
)
from svfit_diffusion.adapter import Batch
from svfit_diffusion.adapter.basis import factorize
from svfit_diffusion.adapter.tuner import layers

BATCHES = 25  # whose gradients are looked at before a training


def squared_gradients(loss: Loss, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The sum over the first batches of each parameter's squared gradient."""
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    for number in range(BATCHES):
        loss(number).backward()
        for square, parameter in zip(squares, parameters, strict=True):
            square += parameter.grad.square()
            parameter.grad = None
    return squares


class Chosen(Deltas):
    """A budget of values over all projections, those with the largest gradients (AdaLoRA's idea,
    weighed by their squares: the diagonal of Fisher's information).

    Options: r, values, and `over`: steps over which the budget is given out, by the gradients of
    each (ID3); 0: all before the first.
    """

    def begin(self, loss: Loss) -> None:
        """The squares of the first batches' gradients."""
        self.masks = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        if not self.options["over"]:
            self.squares = squared_gradients(loss, self.parameters)
            self._choose(self.options["values"])

    def _choose(self, count: int) -> None:
        """The `count` values with the largest sums, of those that are not chosen yet."""
        open_ = torch.cat([s * (1 - m) for s, m in zip(self.squares, self.masks, strict=True)])
        best = torch.zeros_like(open_)
        best[open_.topk(min(count, len(open_))).indices] = 1
        sizes = [len(mask) for mask in self.masks]
        for mask, part in zip(self.masks, best.split(sizes), strict=True):
            mask.copy_((mask + part).clamp(max=1))

    def before_step(self, step: int) -> None:
        """The gradients of the others are not followed."""
        if step < self.options["over"]:
            for square, parameter in zip(self.squares, self.parameters, strict=True):
                square += parameter.grad.square()
            total, over = self.options["values"], self.options["over"]
            self._choose(total * (step + 1) // over - total * step // over)
        for mask, parameter in zip(self.masks, self.parameters, strict=True):
            parameter.grad *= mask

    @property
    def sizes(self) -> list[int]:
        """Those that are chosen."""
        return [self.options["values"]]

    @property
    def mask_bytes(self) -> int:
        """A bit for each value that might have been."""
        return math.ceil(sum(p.numel() for p in self.parameters) / 8)


class Weighted(Deltas):
    """Deltas in a basis that counts each output of a projection by the squares of its weights'
    gradients on the photos (FWSVD's idea): U diag(s) V^T is the decomposition of F W, and the edit
    F^-1 U diag(delta) V^T, its first factor with columns of length 1. Option r.
    """

    def begin(self, loss: Loss) -> None:
        """The first batches' gradients, then the basis."""
        held = [layer for model in self.models.values() for layer in layers(model).values()]
        weights = [layer.get_base_layer().weight for layer in held]
        for weight in weights:
            weight.requires_grad_(True)
        squares = [square.sum(1) for square in squared_gradients(loss, weights)]
        for weight in weights:
            weight.requires_grad_(False)
        for layer, weight, square in zip(held, weights, squares, strict=True):
            factor = (square / square.mean() + 1e-3).sqrt()[:, None]
            basis = factorize(factor * weight.detach(), self.options["r"])
            (key,) = layer.svfit_U
            layer.svfit_U[key] = normalize(basis.U.float() / factor, dim=0)
            layer.svfit_V[key] = basis.V.float()


class Shared(Deltas):
    """Deltas of all projections of a model as a product of two small matrices, one with a row for
    each projection and one for each place in the spectrum (LoRTA's idea). Options: r, k.
    """

    products: tuple[tuple[nn.Parameter, nn.Parameter, list[nn.Parameter]], ...] = ()

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        deltas = super()._attach(model)
        rows = nn.Parameter(torch.randn(len(deltas), self.options["k"]))
        places = nn.Parameter(torch.zeros(self.options["r"], self.options["k"]))
        self.products = (*self.products, (rows, places, deltas))
        for delta in deltas:
            delta.requires_grad_(True)
        return [rows, places]

    def before_step(self, step: int) -> None:
        """The factors' gradients, by the chain rule from the deltas'."""
        for rows, places, deltas in self.products:
            gradient = torch.stack([delta.grad for delta in deltas])
            rows.grad, places.grad = gradient @ places.detach(), gradient.T @ rows.detach()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """The deltas' values."""
        for rows, places, deltas in self.products:
            for delta, value in zip(deltas, rows @ places.T, strict=True):
                delta.copy_(value)
                delta.grad = None
        super().after_step(step)


class Falling(Deltas):
    """Deltas of the denoiser whose strength falls with the noise (T-LoRA's idea), from 1 without
    any to `least`, in training and in use. Options: r, least.
    """

    TIMES = 1000

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        deltas = super()._attach(model)
        if hasattr(model, "time_embedding"):
            model.register_forward_pre_hook(self._fall, with_kwargs=True)
        return deltas

    def _fall(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        times = torch.as_tensor(args[1]).float().reshape(-1, 1).expand(len(args[0]), 1)
        strength = 1 - (1 - self.options["least"]) * times / self.TIMES
        for layer in layers(model).values():
            layer.svfit_batch[NAME] = Batch(strength * layer.svfit_delta[NAME])


ADAPTERS: dict[str, type[Adapter]] = {
    "svfit": Deltas,
    "core": Cores,
    "full": AttentionWeights,
    "whole": AllWeights,
    "chosen": Chosen,
    "weighted": Weighted,
    "shared": Shared,
    "falling": Falling,
}


def attach(
    kind: str, options: dict[str, Any], models: dict[str, nn.Module], denoiser: str
) -> Adapter:
    """The adapter of that name, or of peft's configuration of that name, applied to the models."""
    return ADAPTERS.get(kind, Peft)(models, denoiser, options, kind)
