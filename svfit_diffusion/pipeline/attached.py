"""What is loaded on a pipeline, as read from its modules.

Each model that a concept edits remembers the concept under the name of its adapter; strengths and
what is active are read from the layers. So all pipelines over the same modules, and copies of
them, know the same concepts, also after other code has changed or removed the adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..adapter import SVFitLinear
from ..concept import Concept, Trigger
from ..families import recognise
from .word import known_tokens, rows_of

CONCEPTS = "_svfit_concepts"  # attribute of a model: adapter name -> Attached
POOLS = "_svfit_pools"  # the same: name of a pool -> strengths of what all pictures have of it


@dataclass
class Attached:
    """A concept on one model.

    triggers: its words, as they are called here. token: the word given in place of its own.
    table: of the self-check [8, values], shared by all that fit. layers: the model's projections
    that it edits, in the file's order, and the name of the first.
    """

    concept: Concept
    triggers: tuple[Trigger, ...]
    token: str | None
    basis_from: str | None
    table: np.ndarray | None
    layers: list[SVFitLinear]
    first: str | None

    def on(self, model: nn.Module, name: str) -> bool:
        """Whether it is still there, under its adapter's name."""
        if self.first is None:
            rows = rows_of(model)
            return rows is not None and name in rows.svfit_rows
        return name in self.layers[0].svfit_delta and reaches(model, self.first, self.layers[0])


def reaches(model: nn.Module, name: str, layer: SVFitLinear) -> bool:
    """Whether a layer stands at its place in a model, perhaps inside layers of other methods."""
    found: nn.Module | None = model
    for key in name.split("."):
        found = found._modules.get(key) if found is not None else None
    while found is not None and found is not layer:
        found = found._modules.get("base_layer")
    return found is layer


@dataclass
class Loaded:
    """A concept as it is on a pipeline; a view to read, not to change.

    parts: component -> what is attached to it. models: component -> the model itself.
    """

    name: str
    parts: dict[str, Attached]
    models: dict[str, nn.Module]

    @property
    def concept(self) -> Concept:
        """The concept."""
        return self.any.concept

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """Its words, as they are called here."""
        return self.any.triggers

    @property
    def any(self) -> Attached:
        """What is attached to the first of the components."""
        return next(iter(self.parts.values()))

    @property
    def strengths(self) -> dict[str, float]:
        """Component -> strength there: of its projections, on average, or of its rows if none."""
        found = {}
        for part, held in self.parts.items():
            each = [layer.strength(self.name) for layer in held.layers]
            rows = rows_of(self.models[part])
            if not each and rows is not None:
                each = [rows.strength(self.name)]
            same = len(set(each)) == 1
            found[part] = each[0] if same else sum(each) / max(1, len(each))
        return found

    def acts(self, part: str) -> bool:
        """Whether it acts on a component, be it at strength 0."""
        if part not in self.parts:
            return False
        rows = rows_of(self.models[part])
        held = [*self.parts[part].layers, *([rows] if rows is not None else [])]
        return any(layer.acts(self.name) for layer in held)

    @property
    def in_use(self) -> bool:
        """Whether it acts on any component."""
        return any(map(self.acts, self.parts))

    @property
    def strength(self) -> float:
        """The strength on the denoiser, or on the first component that it edits."""
        return next(iter(self.strengths.values()))

    @property
    def words(self) -> dict[str, list[str]]:
        """Each learned trigger -> names of its tokens, in order."""
        return {w.word: list(w.names) for part in self.models for w in self._rows(part)}

    @property
    def ids(self) -> dict[str, list[int]]:
        """Text encoder -> ids of its learned tokens."""
        found = {part: [i for w in self._rows(part) for i in w.ids] for part in self.models}
        return {part: ids for part, ids in found.items() if ids}

    @property
    def layers(self) -> list[SVFitLinear]:
        """All projections that it edits, in the file's order."""
        return [layer for _, held in sorted(self.parts.items()) for layer in held.layers]

    @property
    def merged(self) -> bool:
        """Whether any of it is fused into the weights."""
        rows = (rows_of(model) for model in self.models.values())
        held = (*(layer for e in self.parts.values() for layer in e.layers), *filter(None, rows))
        return any(layer.merged_adapters for layer in held)

    @property
    def missing(self) -> list[str]:
        """Components that it edits and that have it no more: replaced by hand, or unloaded."""
        wanted = {*self.concept.targets, *self.concept.trigger_shape}
        return sorted(wanted - set(self.parts))

    def fits(self, new: Concept) -> bool:
        """Whether a concept can take this one's place, value for value."""
        keys = ("family", "targets", "fingerprints", "layout", "ranks", "common_size")
        return all(getattr(self.concept, key) == getattr(new, key) for key in keys)

    def _rows(self, part: str) -> tuple:
        rows = rows_of(self.models[part])
        held = rows is not None and self.name in rows.svfit_rows
        return rows.svfit_rows[self.name].words if held else ()


def loaded_concepts(pipe: Any) -> dict[str, Loaded]:
    """Name -> what is loaded under it; a view to read, not to change."""
    models = recognise(pipe).holders(pipe)
    names = dict.fromkeys(name for model in models.values() for name in _books(model))
    return {name: Loaded(name, *_parts(models, name)) for name in names}


def _books(model: nn.Module) -> dict[str, Attached]:
    """What is attached to a model; what other code has removed is forgotten."""
    held = model.__dict__.get(CONCEPTS, {})
    for name in [name for name, entry in held.items() if not entry.on(model, name)]:
        del held[name]
    return held


def _parts(models: Mapping[str, nn.Module], name: str) -> tuple[dict, dict]:
    found = {part: m for part, m in models.items() if name in m.__dict__.get(CONCEPTS, {})}
    return {part: model.__dict__[CONCEPTS][name] for part, model in found.items()}, found


def attach(model: nn.Module, name: str, entry: Attached) -> None:
    """Let a model remember a concept."""
    model.__dict__.setdefault(CONCEPTS, {})[name] = entry


def detach(model: nn.Module, name: str) -> None:
    """Let a model forget a concept."""
    held = model.__dict__.get(CONCEPTS, {})
    held.pop(name, None)
    if not held:
        model.__dict__.pop(CONCEPTS, None)


def check_whole(pipe: Any, entry: Loaded) -> None:
    """Refuse to go on with a concept of which only a part is left on a pipeline."""
    family = recognise(pipe)
    ids = entry.ids
    deaf = [
        f"tokenizer of the {part}"
        for part, tokenizer in family.word_tokenizers(pipe).items()
        if part in ids and not set(ids[part]) <= set(known_tokens(tokenizer).values())
    ]
    if entry.missing or deaf:
        what = (entry.missing or deaf)[0]
        raise ValueError(
            f"{entry.name!r} is on this pipeline only in part, since its {what} was replaced or "
            "its adapter removed there; remove_concept takes the rest off, then load it again."
        )


def set_pooled(pipe: Any, pool: str, strengths: Mapping[str, float]) -> None:
    """Let the models that a pool is on remember what all pictures have of it."""
    for model in recognise(pipe).components(pipe).values():
        if pool in model.__dict__.get(POOLS, {}):
            model.__dict__[POOLS][pool] = dict(strengths)


def pooled(pipe: Any) -> dict[str, float]:
    """What all pictures of a pipeline have of pools: concepts with their strengths."""
    models = recognise(pipe).components(pipe).values()
    pools = (pool for model in models for pool in model.__dict__.get(POOLS, {}).values())
    return {name: strength for pool in pools for name, strength in pool.items()}
