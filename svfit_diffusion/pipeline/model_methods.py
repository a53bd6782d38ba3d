"""What a model with a concept on it does otherwise than others of its class: save, fuse q, k and v,
take another adapter.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .activity import active_names, set_active
from .attached import CONCEPTS
from .instance_class import InstanceMixin
from .saving import with_words

log = logging.getLogger(__name__)


class HoldsConcept(InstanceMixin):
    """The methods of a denoiser or text encoder with a concept on it."""

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the base: as it was, or with the concepts that are fused into it."""
        held = self.__dict__.get(CONCEPTS, {})
        if loose := [n for n, entry in held.items() if not any(x.merged for x in entry.layers)]:
            log.warning(
                "the %s is saved without %s; call fuse_concepts(pipe) before, or run "
                "`svfit export --fuse`, to keep a concept in a base.",
                type(self).__name__,
                ", ".join(loose),
            )
        with with_words(self), _unwrapped(self):
            return super().save_pretrained(*args, **kwargs)

    def fuse_qkv_projections(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the fused projection would be the base's, without the concept."""
        held = ", ".join(self.__dict__.get(CONCEPTS, {})) or "SVFit"
        raise ValueError(
            f"fuse_qkv_projections would drop what {held} changes in to_q, to_k and to_v; call "
            "remove_concept first, or write a base that contains the concept with "
            "`svfit export --fuse` and fuse that one's."
        )

    def add_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own; the concepts that are in use stay so."""
        ours = [name for name in active_names(self) if name in self.__dict__.get(CONCEPTS, {})]
        added = super().add_adapter(*args, **kwargs)
        set_active(self, [*active_names(self), *ours])
        return added


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
