"""What the edit of each adapter of a layer is made of: U, and what it reads of the input for these.

That is V and delta, or where layers have a vector in common, V diag(delta) + M (common.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..concept import TURNED
from .basis import Basis
from .common import Places, arrange, numbers_of, places_for
from .placement import fetch


class Batch(NamedTuple):
    """What each of n pictures has of its own.

    delta: [n, k]. commons: vectors [n, d], each with the rank up to which it acts.
    """

    delta: Tensor
    commons: tuple[tuple[Tensor, int], ...] = ()

    def on(self, device: torch.device) -> tuple[Tensor, list[tuple[Tensor, int]]]:
        """They on a device; without a dimension for pictures where there is one alone."""
        delta, *commons = (
            (values if len(values) > 1 else values[0]).to(device)
            for values in (self.delta, *(common for common, _ in self.commons))
        )
        return delta, [*zip(commons, (rank for _, rank in self.commons), strict=True)]


class Edits:
    """The edits of SVFitLinear.

    `svfit_places[key|d]`: [in + R], which numbers of common vectors of size d the layer takes in a
    basis; `_numbers[key]`: from which these are taken for any size.
    """

    def know_places(self, key: str, name: str, basis: Basis) -> None:
        """Let common vectors act in a basis, up to the rank of the given one, in float32.

        name: of the projection in its model. Where the layer holds vectors of other signs, of
        another factorisation, its own count.
        """
        self.forget_places(key)
        rows, columns = numbers_of(name, basis)
        own = self.svfit_U[key][:, : len(columns)]
        if not own.is_meta:
            turned = (own.detach().cpu().float() * basis.U).sum(0) < 0
            columns = torch.where(turned, columns ^ TURNED, columns)
        self._numbers[key] = Places(rows, columns)

    def forget_places(self, key: str) -> None:
        """Drop what is known of a basis."""
        self._numbers.pop(key, None)
        for old in [old for old in self.svfit_places if old.startswith(f"{key}|")]:
            del self.svfit_places[old]

    @torch.inference_mode(False)
    def places(self, key: str, size: int) -> Places:
        """Which numbers of a common vector of this size the layer takes, in a basis."""
        name = f"{key}|{size}"
        if name not in self.svfit_places:
            found = places_for(self._numbers[key], size)
            device = fetch(self._modules["svfit_U"], key).device
            self.svfit_places[name] = torch.cat([*found]).to(device)
        found = fetch(self.svfit_places, name)
        return Places(found[: self.in_features], found[self.in_features :])

    def _basis(self, adapter: str, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """U [out, r] and V [in, r] of an adapter; r: its rank, or a lower one."""
        key, rank = self.svfit_key[adapter], rank or self.svfit_rank[adapter]
        U, V = (fetch(self._modules[name], key) for name in ("svfit_U", "svfit_V"))
        return (U[:, :rank], V[:, :rank]) if U.shape[1] > rank else (U, V)

    def _parts(self, adapter: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """U [out, r], V [in, r] and the scaled delta of an adapter, [r], or [n, r] of a batch.

        Where there are common vectors, V diag(delta) + M, scaled, and None: [in, r] or [n, in, r].
        """
        scale, batch = self.svfit_scaling[adapter], self.svfit_batch.get(adapter)
        if batch is None:
            U, V = self._basis(adapter)
            delta = fetch(self._modules["svfit_delta"], adapter)
            commons = [(common.to(U.device), rank) for common, rank in self._own_common(adapter)]
        else:
            U, V = self._basis(adapter, batch.delta.shape[1])
            delta, commons = batch.on(U.device)
        # a kernel less, where each costs time
        delta = delta if scale == 1 else delta * scale
        if not commons:
            return U, V, delta
        reads = V * delta.unsqueeze(-2)
        for common, rank in commons:
            places = self.places(self.svfit_key[adapter], common.shape[-1])
            M = arrange(common * scale, places, rank, self.svfit_ties[adapter])
            reads = reads + F.pad(M, (0, V.shape[1] - rank))
        return U, reads.to(V.dtype), None

    def _own_common(self, adapter: str) -> list[tuple[Tensor, int]]:
        """The common vector of an adapter, if it has one, and its rank here."""
        owner = self.svfit_owner.get(adapter)
        if owner is None:
            return []
        return [(fetch(owner._modules["svfit_common"], adapter), self.svfit_rank[adapter])]
