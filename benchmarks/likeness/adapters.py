"""What the methods of the comparison train: weights, modules of peft, and forms of our deltas that
the product does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from torch.nn.functional import normalize

from svfit_diffusion.adapter.attention import find_projections, patch_attention
from svfit_diffusion.adapter.basis import Basis, factorize
from svfit_diffusion.adapter.tuner import SVFitConfig, layers, tie_deltas

NAME = "subject"
Loss = Callable[[int], Tensor]  # of the batch of that number


class Adapter:
    """A form of edit, applied to some of a base's models, `denoiser` among them.

    denoiser, text: its parameters in each. mask_bytes: of a file, for which values are stored.
    """

    mask_bytes = 0

    def __init__(
        self, models: dict[str, nn.Module], denoiser: str, options: dict[str, Any], kind: str
    ) -> None:
        self.models, self.options, self.kind = models, options, kind
        self.denoiser = self._attach(models[denoiser])
        texts = (model for part, model in models.items() if part != denoiser)
        self.text = [parameter for model in texts for parameter in self._attach(model)]
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return [*self.denoiser, *self.text]

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        raise NotImplementedError

    @property
    def sizes(self) -> list[int]:
        """The numbers of values that a file must store, by tensor."""
        return [parameter.numel() for parameter in self.parameters]

    def begin(self, loss: Loss) -> None:
        """Before the first step."""

    def before_step(self, step: int) -> None:
        """Between the gradient and the optimizer."""

    def after_step(self, step: int) -> None:
        """After the optimizer."""


class Core(nn.Module):
    """y = base(x) + x V C U^T with a trained core C [r, r] in the singular basis (LoRA-XS)."""

    def __init__(self, base: nn.Linear, basis: Basis) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("U", basis.U.float())
        self.register_buffer("V", basis.V.float())
        rank = basis.s.numel()
        self.core = nn.Parameter(torch.zeros(rank, rank))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return self.base(x) + ((x @ self.V) @ self.core) @ self.U.T


class Cores(Adapter):
    """LoRA-XS. Option r."""

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        found = []
        for name in find_projections(model):
            parent, _, child = name.rpartition(".")
            base = model.get_submodule(name)
            module = Core(base, factorize(base.weight.detach(), self.options["r"]))
            setattr(model.get_submodule(parent), child, module)
            found.append(module.core)
        return found


class AllWeights(Adapter):
    """Every parameter but the words' rows, which are learned apart."""

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        return [p for name, p in model.named_parameters() if "token_embedding" not in name]


class AttentionWeights(Adapter):
    """The projections' own weights."""

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        return [model.get_submodule(name).weight for name in find_projections(model)]


def inject(
    kind: str, options: dict[str, Any], model: nn.Module, targets: list[str]
) -> tuple[BaseTuner, list[nn.Parameter]]:
    """An adapter of peft on some modules of a model: its tuner, and its parameters."""
    config = getattr(peft, kind)(target_modules=targets, **options)
    before = {name for name, p in model.named_parameters() if p.requires_grad}
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, {NAME: config}, NAME)
    named = model.named_parameters()
    return tuner, [p for name, p in named if p.requires_grad and name not in before]


class Peft(Adapter):
    """An adapter of peft. Options: those of its configuration, whose name is `kind`."""

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        targets = sorted(find_projections(model))
        tuner, parameters = inject(self.kind, self.options, model, targets)
        self.tuners = [*getattr(self, "tuners", ()), tuner]
        return parameters

    def after_step(self, step: int) -> None:
        """AdaLoRA moves its ranks."""
        for tuner in self.tuners:
            if hasattr(tuner, "update_and_allocate"):
                tuner.update_and_allocate(step)


class Deltas(Adapter):
    """Our deltas, outside the product. Option r."""

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        patch_attention(model, SVFitConfig(r=self.options["r"]), NAME)
        return [layer.svfit_delta[NAME] for layer in layers(model).values()]

    def after_step(self, step: int) -> None:
        """Directions that no basis can distinguish share a delta."""
        for model in self.models.values():
            tie_deltas(model, NAME)


class Chosen(Deltas):
    """A budget of values over all projections, those with the largest gradients (AdaLoRA's idea,
    weighed by their squares: the diagonal of Fisher's information).

    Options: r, values, and `over`: steps over which the budget is given out, by the gradients of
    each (ID3); 0: all before the first.
    """

    BATCHES = 25

    def begin(self, loss: Loss) -> None:
        """The squares of the first batches' gradients."""
        self.masks = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        if self.options["over"]:
            return
        for number in range(self.BATCHES):
            loss(number).backward()
            self._add()
            for parameter in self.parameters:
                parameter.grad = None
        self._choose(self.options["values"])

    def _add(self) -> None:
        for square, parameter in zip(self.squares, self.parameters, strict=True):
            square += parameter.grad.square()

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
            self._add()
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

    BATCHES = 25

    def begin(self, loss: Loss) -> None:
        """The first batches' gradients, then the basis."""
        held = [layer for model in self.models.values() for layer in layers(model).values()]
        weights = [layer.get_base_layer().weight for layer in held]
        squares = [torch.zeros(len(weight)) for weight in weights]
        for number in range(self.BATCHES):
            for weight in weights:
                weight.requires_grad_(True)
            loss(number).backward()
            for square, weight in zip(squares, weights, strict=True):
                square += weight.grad.square().sum(1)
                weight.grad = None
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

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        deltas = super()._attach(model)
        rows = nn.Parameter(torch.randn(len(deltas), self.options["k"]))
        places = nn.Parameter(torch.zeros(self.options["r"], self.options["k"]))
        self.products = [*getattr(self, "products", ()), (rows, places, deltas)]
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
            layer.svfit_batch[NAME] = strength * layer.svfit_delta[NAME]


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
