"""Another base to generate validation pictures with: the distilled form of the one being trained.

FLUX.2 klein, Krea 2 Turbo and Z-Image Turbo generate in a few steps, and are trained in their
undistilled form. Only the other base's denoiser and scheduler are loaded; while it generates, each
projection of it is edited by the trained deltas in the trained base's own directions,

    W' = W_other + U diag(delta) V^T        U, V: of the base being trained
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from ..adapter import layers, layout
from ..families import configuration_of, load_base, skeleton
from .adapted_base import AdaptedBase
from .offloading import offload_blocks


def check_validation_base(name: str, base: AdaptedBase) -> None:
    """Raise ValueError unless the denoiser of the base `name` has the layout of the trained one.

    Reads its configuration alone.
    """
    family, models = skeleton(configuration_of(name))
    if family.name != base.family.name:
        raise ValueError(
            f"validation_base {name!r} is of the family {family.name!r}, and the base of a "
            f"training is of {base.family.name!r}; pass another form of the same base."
        )
    part = family.denoiser
    theirs, ours = (
        layout({part: model}, {part: base.targets[part]})
        for model in (models[part], getattr(base.pipe, part))
    )
    if theirs != ours:
        raise ValueError(
            f"the projections of validation_base {name!r} are not those of the base of this "
            f"training ({len(theirs)} and {len(ours)}, or of other sizes); pass another form of "
            "the same base."
        )


class ValidationBase:
    """The other base, loaded when it is first used; in main memory while it is not.

    name: a diffusers folder or a Hub id. quantize, offload: as for the base being trained.
    """

    def __init__(
        self, name: str, base: AdaptedBase, quantize: str | None = None, offload: str = "no"
    ) -> None:
        self.name, self.base, self.quantize, self.offload = name, base, quantize, offload
        self.loaded: AdaptedBase | None = None

    @contextlib.contextmanager
    def with_deltas(self) -> Iterator[AdaptedBase]:
        """The other base on the training's device, edited as the trained one now is."""
        self.loaded = self.loaded or self._load()
        part = self.base.family.denoiser
        trained, other = getattr(self.base.pipe, part), getattr(self.loaded.pipe, part)
        other.to(self.base.device)
        plain = _share(trained, other)
        try:
            yield self.loaded
        finally:
            for name, module in plain.items():
                _put(other, name, module)
            other.to("cpu")

    def _load(self) -> AdaptedBase:
        base, part = self.base, self.base.family.denoiser
        own = (part, "scheduler")
        shared = {key: held for key, held in base.pipe.components.items() if key not in own}
        options = {"quantize": self.quantize} if self.quantize else {}
        dtype = getattr(base.pipe, part).dtype
        pipe = load_base(self.name, dtype, **options, **shared)
        pipe.set_progress_bar_config(disable=True)
        getattr(pipe, part).requires_grad_(False)
        if self.offload == "block":
            offload_blocks(getattr(pipe, part), base.device)
        return replace(base, pipe=pipe)


def _share(trained: nn.Module, other: nn.Module) -> dict[str, nn.Module]:
    """Edit each projection of `other` by the same deltas and directions as in `trained`, without a
    copy of them; returns what stood there, by name.
    """
    plain = {}
    for name, layer in layers(trained).items():
        plain[name] = other.get_submodule(name)
        twin = copy.copy(layer)
        twin._modules = {**layer._modules, "base_layer": plain[name]}
        _put(other, name, twin)
    return plain


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set a submodule by its name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
