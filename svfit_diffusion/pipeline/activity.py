"""Which adapters of a model are active: one list for all its layers, as peft keeps it."""

from __future__ import annotations

from collections.abc import Container, Iterable

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..adapter import Strengths


def active_names(model: nn.Module) -> list[str]:
    """The active adapters of a model's layers that are there, each once."""
    found: dict[str, None] = {}
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            held = layer._get_available_adapters()
            found.update(dict.fromkeys(n for n in layer.active_adapters if n in held))
    return list(found)


def others_active(model: nn.Module, concepts: Container[str]) -> list[str]:
    """The active adapters of a model that are no concepts."""
    return [name for name in active_names(model) if name not in concepts]


def set_active(model: nn.Module, names: Iterable[str]) -> None:
    """Make these adapters active on all layers; whether their values are trained stays."""
    names = list(dict.fromkeys(names))
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer) and layer.active_adapters != names:
            trained = [(p, p.requires_grad) for p in layer.parameters()]
            layer.set_adapter(names, inference_mode=isinstance(layer, Strengths))
            for parameter, before in trained:
                parameter.requires_grad_(before)
