"""Containers of a layer's tensors that offloading and casting hooks move as they move weights.

accelerate and diffusers move a module's tensors where the module is called, by a hook that they
put in the place of its `forward`. A ParameterDict is only read, never called, so its tensors would
stay behind; these are called where there is such a hook.
"""

from __future__ import annotations

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn


class Deltas(nn.ParameterDict):
    """Adapter -> delta [r]."""

    __call__ = nn.Module.__call__  # a ParameterDict refuses to be called

    def __getitem__(self, key: str) -> Tensor:
        """The delta; twice as quick as by attribute, since every step of every layer asks."""
        found = self._parameters.get(key)
        return super().__getitem__(key) if found is None else found

    def forward(self, key: str) -> Tensor:
        """The delta, as a tensor of its own: a hook may move the parameter's data away again."""
        return self[key].view_as(self[key])


class Bases(BufferDict):
    """Key of a basis -> U [out, R] or V [in, R]; no part of a state dict."""

    __call__ = nn.Module.__call__

    def __init__(self) -> None:
        super().__init__({}, persistent=False)

    def forward(self, key: str) -> Tensor:
        """The matrix, as a tensor of its own."""
        return self[key].view_as(self[key])


def hooked(module: nn.Module) -> bool:
    """Whether something else stands in the place of the module's `forward`."""
    return "forward" in module.__dict__


def fetch(container: Deltas | Bases, key: str) -> Tensor:
    """A container's tensor, on the device where its layer is at work."""
    return container(key) if hooked(container) else container[key]


def compute_dtype(linear: nn.Module) -> torch.dtype:
    """The precision that a Linear multiplies in, where its weight may be stored in another one."""
    registry = linear.__dict__.get("_diffusers_hook")
    casting = registry and registry.get_hook("layerwise_casting")
    dtype = casting.compute_dtype if casting else linear.weight.dtype
    return dtype if dtype.is_floating_point and dtype.itemsize > 1 else torch.float32
