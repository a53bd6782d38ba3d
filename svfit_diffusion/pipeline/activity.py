"""Which adapters of a model are active: one list for all its layers, as peft keeps it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from peft.tuners.tuners_utils import BaseTunerLayer

from ..adapter import Strengths


def active_names(layers: Iterable[BaseTunerLayer]) -> list[str]:
    """The active adapters that there are, each once."""
    found: dict[str, None] = {}
    for layer in layers:
        names = [name for name in layer.active_adapters if name not in found]
        if names:
            held = layer._get_available_adapters()
            found.update(dict.fromkeys(name for name in names if name in held))
    return list(found)


def others_active(layers: Iterable[BaseTunerLayer], concepts: Container[str]) -> list[str]:
    """The active adapters that are no concepts."""
    return [name for name in active_names(layers) if name not in concepts]


def set_active(layers: Iterable[BaseTunerLayer], names: Iterable[str]) -> None:
    """Make these adapters active on all layers; whether their values are trained stays."""
    names = list(dict.fromkeys(names))
    for layer in layers:
        if layer.active_adapters != names:
            trained = [(p, p.requires_grad) for p in layer.parameters()]
            layer.set_adapter(names, inference_mode=isinstance(layer, Strengths))
            for parameter, before in trained:
                parameter.requires_grad_(before)


def set_strengths(layers: Iterable[BaseTunerLayer], strengths: Mapping[str, float]) -> None:
    """Set strengths of concepts on the layers, which are switched on for it."""
    for layer in layers if strengths else ():
        if isinstance(layer, Strengths):
            if layer.disable_adapters:
                layer.enable_adapters(True)
            for name, strength in strengths.items():
                layer.set_scale(name, strength)
