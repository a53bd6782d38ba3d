"""What the methods of the comparison train: weights, modules of peft, and our deltas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

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

    tuners: tuple[BaseTuner, ...] = ()

    def _attach(self, model: nn.Module) -> list[nn.Parameter]:
        targets = sorted(find_projections(model))
        tuner, parameters = inject(self.kind, self.options, model, targets)
        self.tuners = (*self.tuners, tuner)
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
