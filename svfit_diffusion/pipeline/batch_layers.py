"""An adapter of which each picture of a batch has values of its own (room pool).

Deltas are a matrix [prompts, values], of which each layer holds its own columns; a projection is as
wide as the widest concept there. Common vectors are a matrix [prompts, size] for each plan.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from ..adapter import Batch, Projection, SVFitLinear, layers, tuner_layers, unpatch_attention
from ..families import Family
from .activity import active_names, set_active, set_strengths
from .attached import POOLS, reaches
from .fusing import unfuse_concepts
from .matching import patch_ranks
from .model_methods import install_methods, uninstall_methods
from .offloading import at_rest
from .word import rows_of

MAX_PLANS = 64  # whose columns are remembered


class Plan(NamedTuple):
    """The projections that a concept edits, in its file's order, the rank of each, and the size of
    its common vector.
    """

    projections: tuple[Projection, ...]
    ranks: tuple[int, ...]
    common: int = 0


class BatchLayers:
    """The layers of an adapter called `name`.

    folders: component -> where its basis lies, if not with the model's own weights.
    """

    def __init__(self, pipe: Any, family: Family, name: str, folders: Mapping[str, str]) -> None:
        self.pipe, self.family, self.name, self.folders = pipe, family, name, folders
        self._wanted: dict[Projection, int] = {}
        self._commons: set[int] = set()  # sizes of common vectors that are wanted
        self._with_commons = False  # whether the layers that are there can have some
        self._attention: dict[str, str] = {}  # component -> "both", "self" or "cross"
        self._ranks: dict[Projection, int] = {}  # as they are now on the models
        self._layers: list[SVFitLinear] = []  # in the order of the ranks
        self._columns: OrderedDict[Plan, np.ndarray] = OrderedDict()

    def want(self, plan: Plan, targets: Mapping[str, str]) -> None:
        """Let the next call of `fit` make room for concepts of a plan."""
        for projection, rank in zip(plan.projections, plan.ranks, strict=True):
            self._wanted[projection] = max(rank, self._wanted.get(projection, 0))
        if plan.common:
            self._commons.add(plan.common)
        for part, attention in targets.items():
            known = self._attention.setdefault(part, attention)
            self._attention[part] = attention if attention == known else "both"

    def fit(self) -> None:
        """Put the layers in, where they are not there or too narrow."""
        fits = self._ranks == self._wanted and self._with_commons == bool(self._commons)
        if fits and self._in_place():
            return
        with at_rest(self.pipe):
            unfuse_concepts(self.pipe)
            self.remove()
            self._install()

    def _install(self) -> None:
        models = self.family.components(self.pipe)
        found: dict[Projection, SVFitLinear] = {}
        for part, attention in self._attention.items():
            ours = {p: rank for p, rank in sorted(self._wanted.items()) if p.part == part}
            before = active_names(tuner_layers(models[part]).values())
            ranks = {p.local: rank for p, rank in ours.items()}
            folder = self.folders.get(part)
            common = max(self._commons, default=0) if part == self.family.denoiser else 0
            patch_ranks(models[part], ranks, self.name, attention, self.family, folder, common)
            held = layers(models[part])
            found |= {p: held[p.local] for p in ours}
            set_active(tuner_layers(models[part]).values(), [*before, self.name])
            for p in ours:
                held[p.local].set_requires_grad(self.name, False)
            models[part].__dict__.setdefault(POOLS, {})[self.name] = {}
            install_methods(models[part])
        self._ranks = dict(sorted(self._wanted.items()))
        self._layers = [found[p] for p in self._ranks]
        self._with_commons = bool(self._commons)

    def columns(self, plan: Plan) -> np.ndarray:
        """Where the values of a plan's concepts lie in a row of the matrix: [values]."""
        found = self._columns.get(plan)
        if found is None:
            starts = dict(zip(self._ranks, np.cumsum([0, *self._ranks.values()]), strict=False))
            spans = zip(plan.projections, plan.ranks, strict=True)
            found = np.concatenate([np.arange(starts[p], starts[p] + rank) for p, rank in spans])
            self._columns[plan] = found
            if len(self._columns) > MAX_PLANS:
                self._columns.popitem(last=False)
        return found

    def width(self) -> int:
        """The number of columns of the matrix."""
        return sum(self._ranks.values())

    def put(
        self,
        deltas: np.ndarray,
        plans: Sequence[Plan],
        pictures: int,
        commons: Mapping[Plan, np.ndarray] = MappingProxyType({}),
    ) -> None:
        """Use the rows [prompts, width] of deltas; the denoiser, each for that many pictures.

        plans: of the concepts in them. A layer that none of them edits is the base's. commons: of
        each plan with common vectors, their rows [prompts, size].
        """
        used: dict[Projection, int] = {}
        for plan in dict.fromkeys(plans):
            for projection, rank in zip(plan.projections, plan.ranks, strict=True):
                used[projection] = max(rank, used.get(projection, 0))
        self._switch_on()
        blocks = self._blocks(deltas, pictures)
        vectors = [
            (self._blocks(rows, pictures)[self.family.denoiser], self._denoiser_ranks(plan))
            for plan, rows in commons.items()
        ]
        start = 0
        for (projection, rank), layer in zip(self._ranks.items(), self._layers, strict=True):
            width = used.get(projection, 0)
            block = blocks[projection.part]
            own = [(rows, ranks[projection]) for rows, ranks in vectors if projection in ranks]
            delta = block[:, start : start + max(width, 1)]
            layer.svfit_batch[self.name] = Batch(delta, tuple(own))
            layer.svfit_scaling[self.name] = 1.0 if width else 0.0
            start += rank

    def _denoiser_ranks(self, plan: Plan) -> dict[Projection, int]:
        """The denoiser's projections of a plan, and the rank of each."""
        pairs = zip(plan.projections, plan.ranks, strict=True)
        return {p: rank for p, rank in pairs if p.part == self.family.denoiser}

    def _switch_on(self) -> None:
        """Let the adapter act: to make others active, or switch all off, is to switch it off."""
        models = self.family.holders(self.pipe).values()
        words = [rows for model in models if (rows := rows_of(model)) is not None]
        ours = [*self._layers, *(rows for rows in words if self.name in rows.svfit_rows)]
        for model in () if all(layer.acts(self.name) for layer in ours) else models:
            held = tuner_layers(model).values()
            set_active(held, [*active_names(held), self.name])
            set_strengths(held, {self.name: 1.0})

    def _blocks(self, deltas: np.ndarray, pictures: int) -> dict[str, torch.Tensor]:
        """Component -> the matrix, where the component is, a row for each of its rows."""
        matrix, found = torch.from_numpy(deltas), {}
        for layer, projection in zip(self._layers, self._ranks, strict=True):
            if projection.part not in found:
                device = next(iter(layer.svfit_U.values())).device
                rows = matrix
                if projection.part == self.family.denoiser and pictures > 1:
                    rows = matrix.repeat_interleave(pictures, 0)
                found[projection.part] = rows.to(device) if device.type != "meta" else rows
        return found

    def remove(self) -> None:
        """Take the layers out again; other adapters stay as they are."""
        models = self.family.components(self.pipe)
        for part in {p.part for p in self._ranks} & set(models):
            before = active_names(tuner_layers(models[part]).values())
            unpatch_attention(models[part], self.name)
            left = tuner_layers(models[part]).values()
            set_active(left, [name for name in before if name != self.name])
            held = models[part].__dict__.get(POOLS, {})
            held.pop(self.name, None)
            if not held:
                models[part].__dict__.pop(POOLS, None)
            uninstall_methods(models[part])
        self._ranks, self._layers = {}, []
        self._columns.clear()

    def _in_place(self) -> bool:
        """Whether they are still there: other code may have replaced a component."""
        models = self.family.components(self.pipe)
        firsts = {p.part: (p, layer) for p, layer in zip(self._ranks, self._layers, strict=True)}
        return all(
            part in models
            and reaches(models[part], projection.local, layer)
            and self.name in layer.svfit_delta
            for part, (projection, layer) in firsts.items()
        )
