"""Fusing concepts into the weights, and taking them out again to the bit.

A fused concept costs nothing in generation. The weights before are kept, in main memory (as many
bytes as the edited projections have), and the learned words stay in use.
"""

from __future__ import annotations

from typing import Any

from ..adapter import Strengths, tuner_layers
from ..families import recognise
from .locking import one_at_a_time
from .offloading import at_rest


@one_at_a_time
def fuse_concepts(pipe: Any) -> None:
    """Merge the loaded concepts at their strengths into the weights: generation costs nothing.

    ValueError, with all weights untouched, where one would not be finite.
    """
    with at_rest(pipe):
        held = adapter_layers(pipe)
        for layer in held:
            layer.check_merge()
        for layer in held:
            layer.merge()


@one_at_a_time
def unfuse_concepts(pipe: Any) -> None:
    """Take fused concepts out of the weights again, which are then what they were, to the bit."""
    fused = [layer for layer in adapter_layers(pipe) if layer.merged]
    if fused:
        with at_rest(pipe):
            for layer in fused:
                layer.unmerge()


def adapter_layers(pipe: Any) -> list[Strengths]:
    """All layers of a pipeline that hold something of a concept."""
    models = recognise(pipe).holders(pipe).values()
    held = (layer for model in models for layer in tuner_layers(model).values())
    return [layer for layer in held if isinstance(layer, Strengths)]
