"""Copies that stand in the place of weights while a layer or a block works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

Place = tuple[dict[str, Any], str]  # the parameters of a module, and the name of one


@contextlib.contextmanager
def instead_of(places: Sequence[Place], make: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """What is made of each weight stands in its place; afterwards the weight is back, also where
    recomputing for a gradient ends within.
    """
    weights = [held[name] for held, name in places]
    try:
        for (held, name), weight in zip(places, weights, strict=True):
            held[name] = make(weight)
        yield
    finally:
        for (held, name), weight in zip(places, weights, strict=True):
            held[name] = weight
