"""The matrices M that projections make of the common vector (concept/common.py says how).

A layer of rank R holds the numbers of its R columns; a concept of lower rank uses the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..concept import COMMON_SCALE, Concept, place_numbers, places_of
from .basis import Basis

Ties = Iterable[tuple[int, int, bool]]


class Places(NamedTuple):
    """The numbers that a projection takes: rows [in], by its input; columns [R], by direction."""

    rows: Tensor
    columns: Tensor


def numbers_of(name: str, basis: Basis) -> Places:
    """From which the places of a projection of this name are taken, for vectors of any size.

    Of a basis in float32: what half precision makes of it has other signs now and then.
    """
    if basis.U.is_meta:  # only sizes are asked for
        sizes = len(basis.V), basis.U.shape[1]
        return Places(*(torch.zeros(n, dtype=torch.int32, device="meta") for n in sizes))
    found = place_numbers(name, len(basis.V), basis.U.numpy())
    return Places(*map(torch.from_numpy, found))


def places_for(numbers: Places, size: int) -> Places:
    """The places for a common vector of this size."""
    return Places(*places_of(*numbers, size))


def place_index(name: str, basis: Basis, size: int) -> np.ndarray:
    """Which number of a common vector each entry of M [in, r] takes: from 0 to 2 size - 1, of which
    those from `size` on are the same numbers again, negative.
    """
    rows, columns = places_for(numbers_of(name, basis), size)
    return (rows[:, None] ^ columns).numpy()


def arrange(common: Tensor, places: Places, rank: int, ties: Ties) -> Tensor:
    """M [..., in, rank] of common vectors [..., d]; zero in the directions that are tied."""
    index = places.rows[:, None] ^ places.columns[:rank]
    signed = torch.cat([common, -common], -1) * COMMON_SCALE
    found = signed.index_select(-1, index.flatten()).unflatten(-1, index.shape)
    for start, stop, _ in ties:
        found[..., start:stop] = 0
    return found


def values_of(concept: Concept, parts: Iterable[str]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """What a concept has for each of its projections, in float32: its delta [r], and the common
    vector [d], None where there is none or the projection is not the denoiser's.

    parts: the component of each, in the concept's order.
    """
    deltas = torch.from_numpy(concept.deltas.astype(np.float32)).split(list(concept.ranks))
    common = None if concept.common is None else torch.from_numpy(concept.common.astype(np.float32))
    for part, delta in zip(parts, deltas, strict=True):
        yield delta, common if part == concept.denoiser else None


def reading(name: str, basis: Basis, delta: Tensor, common: Tensor | None) -> Tensor:
    """What an edit's directions read of the input: V diag(delta) + M, [in, r], float32.

    The edit is U times its transpose. delta [r]; common [d], None where the concept has none, or
    where the projection is not the denoiser's. name: of the projection in its model.
    """
    found = basis.V * delta
    if common is None:
        return found
    places = places_for(numbers_of(name, basis), len(common))
    return found + arrange(common.float(), places, len(delta), basis.ties())


def used_directions(delta: Tensor, common: Tensor | None) -> Tensor:
    """Which of an edit's directions change anything: all, with a common vector; at least one."""
    if common is not None and common.any():
        return torch.arange(len(delta))
    return delta.nonzero().flatten() if delta.any() else torch.tensor([0])
