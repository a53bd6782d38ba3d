"""What a model with a concept on it does otherwise than others of its class: save, fuse q, k and v,
take another adapter.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import weakref
from collections.abc import Iterator
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..adapter import tuner_layers
from .activity import active_names, set_active
from .attached import CONCEPTS, POOLS
from .word import with_words, without_vectors

log = logging.getLogger(__name__)


def save_pretrained(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Save the base: as it was, or with the concepts that are fused into it."""
    held = model.__dict__.get(CONCEPTS, {})
    loose = [n for n, entry in held.items() if not any(x.merged for x in entry.layers)]
    loose += [name for used in model.__dict__.get(POOLS, {}).values() for name in used]
    if loose:
        log.warning(
            "the %s is saved without %s; call fuse_concepts(pipe) before, or run "
            "`svfit export --fuse`, to keep a concept in a base.",
            type(model).__name__,
            ", ".join(loose),
        )
    with with_words(model), without_vectors(model) as lost, _unwrapped(model):
        if lost:
            log.warning(
                "the %s is saved without the learned word %s, which is added to its output and "
                "cannot be a part of its weights; share the concept file for it.",
                type(model).__name__,
                ", ".join(lost),
            )
        return type(model).save_pretrained(model, *args, **kwargs)


def fuse_qkv_projections(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Refused: the fused projection would be the base's, without the concept."""
    raise ValueError(
        f"fuse_qkv_projections would drop what {', '.join(_held(model))} changes in to_q, to_k and "
        "to_v; call remove_concept or close the pool first, or write a base that contains the "
        "concept with `svfit export --fuse` and fuse that one's."
    )


def add_adapter(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """As the model's own; the concepts and pools that are in use stay so."""
    held = _held(model)
    ours = [name for name in active_names(tuner_layers(model).values()) if name in held]
    added = type(model).add_adapter(model, *args, **kwargs)
    layers = tuner_layers(model).values()
    set_active(layers, [*active_names(layers), *ours])
    return added


METHODS = {f.__name__: f for f in (save_pretrained, fuse_qkv_projections, add_adapter)}


class Method:
    """A method of one model, in the place of its class's: an attribute of the model.

    Not a subclass for the model, since diffusers' from_pipe asks for the exact class. The model
    is not kept alive by it; a copy of the model has a copy of it.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = weakref.ref(model), name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return METHODS[self.name](self.model(), *args, **kwargs)

    def __reduce__(self) -> tuple:
        return Method, (self.model(), self.name)

    def __deepcopy__(self, memo: dict) -> Method:
        return Method(memo.get(id(self.model()), self.model()), self.name)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the class's method, by which diffusers decides what to pass."""
        return inspect.signature(functools.partial(getattr(type(self.model()), self.name), None))


def install_methods(model: nn.Module) -> None:
    """Give a model with a concept its methods."""
    for name in METHODS:
        if hasattr(type(model), name):
            model.__dict__[name] = Method(model, name)


def uninstall_methods(model: nn.Module) -> None:
    """Give a model its class's methods back, once no concept is on it."""
    for name in METHODS if not _held(model) else ():
        model.__dict__.pop(name, None)


def _held(model: nn.Module) -> list[str]:
    """Names of the concepts and pools on a model."""
    return [name for held in (CONCEPTS, POOLS) for name in model.__dict__.get(held, {})]


@contextlib.contextmanager
def _unwrapped(model: nn.Module) -> Iterator[None]:
    """Adapter layers out of the way: each Linear stands in its own place."""
    wrapped = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and ".base_layer" not in name
    ]
    places = []
    for name, module in wrapped:
        parent, _, child = name.rpartition(".")
        places.append((model.get_submodule(parent), child, module))
    config = {key: model.__dict__.pop(key) for key in ("peft_config",) if key in model.__dict__}
    loaded = model.__dict__.get("_hf_peft_config_loaded", False)
    model._hf_peft_config_loaded = False
    try:
        for parent, child, module in places:
            parent._modules[child] = module.get_base_layer()
        yield
    finally:
        for parent, child, module in places:
            parent._modules[child] = module
        model.__dict__.update(config)
        model._hf_peft_config_loaded = loaded
