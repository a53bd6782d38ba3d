"""The matrices M that projections make of the common vector (concept/common.py says how).

A layer of rank R holds the numbers of its R columns; a concept of lower rank uses the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..concept import COMMON_SCALE, common_columns, common_rows
from .basis import Basis

Ties = Iterable[tuple[int, int, bool]]


class Places(NamedTuple):
    """The numbers that a projection takes: rows [in], by its input; columns [R], by direction."""

    rows: Tensor
    columns: Tensor


def find_places(name: str, U: Tensor, in_features: int, size: int) -> Places:
    """The places of a projection of this name in its model, with U [out, R]; on the CPU.

    size: of the common vector.
    """
    if U.is_meta:  # only sizes are asked for
        sizes = in_features, U.shape[1]
        return Places(*(torch.empty(n, dtype=torch.int32, device=U.device) for n in sizes))
    columns = common_columns(name, U.cpu().float().numpy(), size)
    rows = common_rows(name, in_features, size)
    return Places(torch.from_numpy(rows), torch.from_numpy(columns))


def place_index(name: str, basis: Basis, size: int) -> np.ndarray:
    """Which number of a common vector each entry of M [in, r] takes: from 0 to 2 size - 1, of which
    those from `size` on are the same numbers again, negative.
    """
    rows, columns = find_places(name, basis.U, len(basis.V), size)
    return (rows[:, None] ^ columns).numpy()


def arrange(common: Tensor, places: Places, rank: int, ties: Ties) -> Tensor:
    """M [..., in, rank] of common vectors [..., d]; zero in the directions that are tied."""
    index = places.rows[:, None] ^ places.columns[:rank]
    signed = torch.cat([common, -common], -1) * COMMON_SCALE
    found = signed.index_select(-1, index.flatten()).unflatten(-1, index.shape)
    for start, stop, _ in ties:
        found[..., start:stop] = 0
    return found


def reading(name: str, basis: Basis, delta: Tensor, common: Tensor | None) -> Tensor:
    """What an edit's directions read of the input: V diag(delta) + M, [in, r], float32.

    The edit is U times its transpose. delta [r]; common [d], None where the concept has none, or
    where the projection is not the denoiser's. name: of the projection in its model.
    """
    found = basis.V * delta
    if common is None:
        return found
    places = find_places(name, basis.U, len(basis.V), len(common))
    return found + arrange(common.float(), places, len(delta), basis.ties())
