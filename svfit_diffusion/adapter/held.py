"""Published weights that another program holds, in modules of its own (ComfyUI).

Their fingerprint identifies them, so that a basis that was computed of them once is found again,
also where the program now holds the same base in fewer bits, of which it cannot be computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cache import Source


@dataclass(frozen=True)
class HeldWeights(Source):
    """A source of weights [out, in] by name; read: how to get one.

    Made by `held_weights`.
    """

    read: Callable[[str], Tensor]

    @property
    def coarse(self) -> bool:
        """False: whoever gives the fingerprint has compared the weights."""
        return False

    def weight(self, name: str) -> Tensor:
        """Weight [out, in] at the published precision."""
        return self.read(name).to(self.dtype)


def held_weights(
    shapes: Mapping[str, tuple[int, int]],
    dtype: str,
    fingerprint: str,
    read: Callable[[str], Tensor],
) -> HeldWeights:
    """The weights of all attention projections of a model that another program holds.

    shapes: name -> (out, in). dtype: the precision they are published in, such as "float16".
    fingerprint: of the published weights (hex), "" where it is to be computed, by `fingerprint()`.
    read: name -> weight [out, in]; for a basis it is called only if that is not in the cache, and
    what it raises comes through.
    """
    tree = nn.Module()
    for name, (out, in_) in shapes.items():
        *path, last = name.split(".")
        parent = tree
        for child in path:
            if child not in parent._modules:
                parent.add_module(child, nn.Module())
            parent = parent._modules[child]
        parent.add_module(last, nn.Linear(in_, out, bias=False, device="meta"))
    identity = hashlib.sha256(f"held|{dtype}|{fingerprint}".encode()).hexdigest()
    return HeldWeights(tuple(sorted(shapes)), identity, getattr(torch, dtype), {}, tree, read)
