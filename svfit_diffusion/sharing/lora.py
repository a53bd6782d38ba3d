"""A concept is exactly a LoRA: `U_r R^T` = up @ down, with R = V_r diag(delta) + M.

    down = diag(1 / n) R^T   [r, in]       up = U_r diag(n)   [out, r]       n_i^2 = |r_i|

So both matrices are equally large, and half precision keeps small numbers. Directions of which
nothing is read are left out, and a fused weight (lora_names.py) gets its projections side by side:
their ranks add, each up to its own rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..adapter import Basis, Projection, reading, used_directions, values_of
from ..concept import Concept
from .lora_names import Place, diffusers_places, kohya_places

KINDS = ("kohya", "diffusers")


def lora_tensors(
    concept: Concept,
    plan: list[Projection],
    bases: Iterable[Basis],
    kind: str,
    models: Mapping[str, nn.Module],
    strength: float = 1.0,
    dtype: torch.dtype = torch.float16,
) -> dict[str, Tensor]:
    """The LoRA of a concept, by the names of the file format.

    kohya: each module has the rank that it needs, and all have the same alpha, the smallest of
    these ranks, for readers that mistake an alpha of each module's own (diffusers' does); `up` is
    scaled by rank / alpha. diffusers: all modules of a component get its largest rank, padded with
    zeros, since older readers mishandle several ranks, and there is no alpha. Raises ValueError
    for a family or kind without such a format.
    """
    if kind not in KINDS:
        raise ValueError(f"the format is {kind!r}, but must be one of {', '.join(KINDS)}.")
    kohya = kind == "kohya"
    places = kohya_places(plan, concept.family, models) if kohya else diffusers_places(plan)
    values = list(values_of(concept, (p.part for p in plan)))
    used = [used_directions(delta, common) for delta, common in values]
    ranks: dict[str, int] = {}
    for place, columns in zip(places, used, strict=True):
        ranks[place.module] = ranks.get(place.module, 0) + len(columns)
    write = _kohya(ranks, dtype) if kohya else _diffusers(ranks, dtype)
    missing, waiting, tensors = Counter(place.module for place in places), {}, {}
    edits = zip(plan, values, used, places, bases, strict=True)
    for projection, (delta, common), columns, place, basis in edits:
        reads = strength * reading(projection.local, basis, delta, common)
        held = waiting.setdefault(place.module, [])
        held.append((place, *_factors(reads[:, columns], basis.U[:, columns])))
        if len(held) == missing[place.module]:
            tensors |= write(place.module, *_side_by_side(waiting.pop(place.module)))
    return tensors


def _factors(reads: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """down [q, in] and up [out, q] of what is read [in, q] for the directions U [out, q]."""
    size = torch.linalg.vector_norm(reads, dim=0).sqrt()
    return (reads / torch.where(size > 0, size, 1)).T, U * size


def _side_by_side(parts: list[tuple[Place, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """down [q, in] and up [rows, q] of a module, of its projections' own."""
    down = torch.cat([down for _, down, _ in parts])
    up, column = torch.zeros(parts[0][0].rows, len(down)), 0
    for place, _, own in parts:
        up[place.start : place.start + len(own), column : column + own.shape[1]] = own
        column += own.shape[1]
    return down, up


Write = Callable[[str, Tensor, Tensor], dict[str, Tensor]]


def _kohya(ranks: Mapping[str, int], dtype: torch.dtype) -> Write:
    alpha = min(ranks.values())

    def write(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
        return {
            f"{name}.lora_down.weight": down.to(dtype),
            f"{name}.lora_up.weight": (up * (len(down) / alpha)).to(dtype),
            f"{name}.alpha": torch.tensor(float(alpha), dtype=dtype),
        }

    return write


def _diffusers(ranks: Mapping[str, int], dtype: torch.dtype) -> Write:
    largest: dict[str, int] = {}
    for name, rank in ranks.items():
        part = name.partition(".")[0]
        largest[part] = max(rank, largest.get(part, 0))

    def write(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
        missing = largest[name.partition(".")[0]] - len(down)
        return {
            f"{name}.lora_A.weight": nn.functional.pad(down, (0, 0, 0, missing)).to(dtype),
            f"{name}.lora_B.weight": nn.functional.pad(up, (0, missing)).to(dtype),
        }

    return write
