"""A concept is exactly a LoRA: `U_r diag(delta) V_r^T` = up @ down.

    down = diag(sqrt|delta|) V_r^T   [r, in]       up = U_r diag(sign(delta) sqrt|delta|)   [out, r]

Half of each value stands in either matrix, so that half precision keeps small ones. Directions with
a delta of zero are left out, and a fused weight (lora_names.py) gets its projections side by side:
their ranks add, each up to its own rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..adapter import Basis, Projection
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
    held: dict[str, list[tuple[Place, Tensor, Tensor]]] = {}
    for place, factors in zip(places, _factors(concept, bases, strength), strict=True):
        held.setdefault(place.module, []).append((place, *factors))
    modules = {name: _side_by_side(parts) for name, parts in held.items()}
    return _kohya(modules, dtype) if kohya else _diffusers(modules, dtype)


def _factors(
    concept: Concept, bases: Iterable[Basis], strength: float
) -> Iterable[tuple[Tensor, Tensor]]:
    """Of each projection: down [q, in] and up [out, q], of the q >= 1 deltas that are not zero."""
    deltas = torch.from_numpy(concept.deltas.astype(np.float32)).split(list(concept.ranks))
    for delta, basis in zip(deltas, bases, strict=True):
        used = delta.nonzero().flatten() if delta.any() else torch.tensor([0])
        value = strength * delta[used]
        half = value.abs().sqrt()
        yield half[:, None] * basis.V[:, used].T, basis.U[:, used] * (value.sign() * half)


def _side_by_side(parts: list[tuple[Place, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """down [q, in] and up [rows, q] of a module, of its projections' own."""
    down = torch.cat([down for _, down, _ in parts])
    up, column = torch.zeros(parts[0][0].rows, len(down)), 0
    for place, _, own in parts:
        up[place.start : place.start + len(own), column : column + own.shape[1]] = own
        column += own.shape[1]
    return down, up


def _kohya(modules: Mapping[str, tuple[Tensor, Tensor]], dtype: torch.dtype) -> dict[str, Tensor]:
    tensors, alpha = {}, min(len(down) for down, _ in modules.values())
    for name, (down, up) in modules.items():
        tensors[f"{name}.lora_down.weight"] = down.to(dtype)
        tensors[f"{name}.lora_up.weight"] = (up * (len(down) / alpha)).to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(float(alpha), dtype=dtype)
    return tensors


def _diffusers(
    modules: Mapping[str, tuple[Tensor, Tensor]], dtype: torch.dtype
) -> dict[str, Tensor]:
    largest: dict[str, int] = {}
    for name, (down, _) in modules.items():
        part = name.partition(".")[0]
        largest[part] = max(len(down), largest.get(part, 0))
    tensors = {}
    for name, (down, up) in modules.items():
        missing = largest[name.partition(".")[0]] - len(down)
        tensors[f"{name}.lora_A.weight"] = nn.functional.pad(down, (0, 0, 0, missing)).to(dtype)
        tensors[f"{name}.lora_B.weight"] = nn.functional.pad(up, (0, missing)).to(dtype)
    return tensors
