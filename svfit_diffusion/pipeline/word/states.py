"""Hidden states of a text encoder, some of which hold a learned word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class HeardStates(tuple):
    """All hidden states. A single one that does not have the word cannot be read: it would go
    unheard in silence.
    """

    heard: frozenset[int] = frozenset()

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, int) and place % len(self) not in self.heard:
            layers = ", ".join(map(str, sorted(self.heard)))
            raise ValueError(
                f"the text encoder's layer {place} is read, but a word of this prompt was learned "
                f"for layer {layers}; leave out the argument that chooses layers (of FLUX.2: "
                "text_encoder_out_layers), or the word."
            )
        return super().__getitem__(place)


def with_states(states: Sequence[Tensor], layers: Sequence[int], new: Sequence[Tensor]) -> tuple:
    """All states, those of `layers` replaced by the new ones, which have a word."""
    held = list(states)
    for layer, one in zip(layers, new, strict=True):
        held[layer] = one
    found = HeardStates(held)
    found.heard = frozenset(layer % len(held) for layer in layers)
    return found
