"""Published weights that another program holds, in modules of its own (ComfyUI).

Their fingerprint identifies them, so that a basis that was computed of them once is found again,
also where the program now holds the same base in fewer bits, of which it cannot be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .published import Source, identity_of


@dataclass(frozen=True)
class HeldWeights(Source):
    """A source of weights by name. Made by `held_weights`, which says what its fields are."""

    shapes: Mapping[str, tuple[int, int]]
    read: Callable[[str], Tensor]

    @property
    def coarse(self) -> bool:
        """False: whoever gives the fingerprint has compared the weights."""
        return False

    @property
    def kind(self) -> str:
        """What they are weights of, for people to read."""
        return "model"

    def shape(self, name: str) -> tuple[int, int]:
        """[out, in] of a weight."""
        return self.shapes[name]

    def weight(self, name: str) -> Tensor:
        """Weight [out, in] at the published precision."""
        return self.read(name).to(self.dtype)


def held_weights(
    shapes: Mapping[str, tuple[int, int]],
    dtype: str,
    fingerprint: str,
    read: Callable[[str], Tensor],
) -> HeldWeights:
    """The weights of attention projections of a model that another program holds.

    shapes: name -> (out, in). dtype: the precision they are published in, such as "float16".
    fingerprint: of the weights of all projections (hex), "" where it is to be computed, by
    `fingerprint()`. read: name -> weight [out, in]; for a basis it is called only if that is not in
    the cache, and what it raises comes through.
    """
    identity = identity_of("held", dtype, fingerprint)
    precision = getattr(torch, dtype)
    return HeldWeights(
        tuple(sorted(shapes)), identity, precision, {}, nn.Module(), dict(shapes), read
    )
