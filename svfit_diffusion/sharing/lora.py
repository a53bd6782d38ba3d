"""A concept is exactly a LoRA: `U_r diag(delta) V_r^T` = up @ down with down = V_r^T [r, in] and
up = U_r diag(delta) [out, r]. This module makes the tensors, under the names of other programs.

kohya:     lora_unet_down_blocks_1_..._attn1_to_q.lora_down.weight, .lora_up.weight, .alpha
diffusers: unet.down_blocks.1...attn1.to_q.lora_A.weight, .lora_B.weight
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..adapter import Basis, Projection
from ..concept import Concept

KINDS = ("kohya", "diffusers")
PREFIXES = {
    "sd": {"unet": "lora_unet", "text_encoder": "lora_te"},
    "sdxl": {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    },
}


def kohya_name(name: str, family: str) -> str:
    """A canonical projection name, such as unet.mid_block...to_out.0, in kohya's form."""
    part, _, path = name.partition(".")
    return f"{PREFIXES[family][part]}_{path.replace('.', '_')}"


def lora_tensors(
    concept: Concept,
    plan: list[Projection],
    bases: Iterable[Basis],
    kind: str,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The LoRA of a concept, by the names of the file format.

    All projections of a component get its largest rank, padded with zeros, because readers
    mishandle several ranks in one model. alpha is the rank, so the scale is 1. Raises ValueError
    for a family or kind without such a format.
    """
    if kind not in KINDS:
        raise ValueError(f"the format is {kind!r}, but must be one of {', '.join(KINDS)}.")
    if kind == "kohya" and concept.family not in PREFIXES:
        known = ", ".join(PREFIXES)
        raise ValueError(
            f"kohya's format can be written for the families {known}, not "
            f"{concept.family[:60]!r}; pass --to diffusers."
        )
    largest, tensors = {}, {}
    for projection, r in zip(plan, concept.ranks, strict=True):
        largest[projection.part] = max(r, largest.get(projection.part, 0))
    deltas = np.split(concept.deltas.astype(np.float32), np.cumsum(concept.ranks)[:-1])
    for projection, basis, delta in zip(plan, bases, deltas, strict=True):
        r, rank = len(delta), largest[projection.part]
        down = torch.zeros(rank, projection.in_features)
        up = torch.zeros(projection.out_features, rank)
        down[:r] = basis.V.T
        up[:, :r] = basis.U * (strength * torch.from_numpy(delta))
        down, up = down.to(dtype), up.to(dtype)
        if kind == "kohya":
            name = kohya_name(projection.name, concept.family)
            tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
            tensors[f"{name}.alpha"] = torch.tensor(float(rank), dtype=dtype)
        else:
            tensors[f"{projection.name}.lora_A.weight"] = down
            tensors[f"{projection.name}.lora_B.weight"] = up
    return tensors


def known_names(plan: list[Projection], family: str, modules: Iterable[str], unet: Any) -> dict:
    """Module name of a LoRA file -> projection of the plan, for those that the plan has.

    unet: its configuration gives the numbers of SDXL's blocks in kohya's trainer
    (input_blocks_4_1).
    """
    table = {}
    for projection in plan:
        part, _, path = projection.name.partition(".")
        table[projection.name] = table[f"{part}.{projection.local}"] = projection
        for prefix in {PREFIXES[family][part], *(("lora_te",) if part == "text_encoder" else ())}:
            table[f"{prefix}_{path.replace('.', '_')}"] = projection
    found = {name: table[name] for name in modules if name in table}
    for name, ours in _from_sgm(modules, unet).items():
        if ours in table:
            found[name] = table[ours]
    return found


def _from_sgm(modules: Iterable[str], unet: Any) -> dict[str, str]:
    """Kohya's names in the numbering of Stability's code -> names in diffusers' numbering."""
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    starts = ("lora_unet_input_blocks", "lora_unet_middle_block", "lora_unet_output_blocks")
    keys = {f"{m}.lora_down.weight": m for m in modules if m.startswith(starts)}
    try:
        mapped = _maybe_map_sgm_blocks_to_diffusers(dict(keys), unet.config) if keys else {}
    except (ValueError, IndexError, KeyError):
        return {}  # the numbers do not match this base
    found = {}
    for key, module in mapped.items():
        for theirs, ours in (("input", "down"), ("middle", "mid"), ("output", "up")):
            key = key.replace(f"lora_unet_{theirs}_block", f"lora_unet_{ours}_block")
        found[module] = key.removesuffix(".lora_down.weight")
    return found


def project(
    pairs: Mapping[str, tuple[Tensor, Tensor, float]],
    known: Mapping[str, Projection],
    plan: list[Projection],
    bases: Iterable[Basis],
) -> tuple[list[np.ndarray], float, float]:
    """The deltas [r] of each projection that approximate a LoRA best, and their energy.

    pairs: module -> (down [q, in], up [out, q], scale). The least squares solution in an
    orthonormal basis is delta_i = u_i^T (scale * up @ down) v_i. Also returns the energies
    (squared Frobenius norms) of the deltas and of the whole LoRA.
    """
    by_projection = {projection: pairs[module] for module, projection in known.items()}
    deltas, total = [], sum(energy(*pair) for pair in pairs.values())
    for projection, basis in zip(plan, bases, strict=True):
        delta = np.zeros(basis.s.numel())
        if projection in by_projection:
            down, up, scale = by_projection[projection]
            left = basis.U.double().T @ up.double()
            right = basis.V.double().T @ down.double().T
            delta = scale * (left * right).sum(1).numpy()
            for start, stop, kept in basis.ties():
                delta[start:stop] = delta[start:stop].mean() * kept
        deltas.append(delta)
    return deltas, float(sum(np.square(d).sum() for d in deltas)), total


def energy(down: Tensor, up: Tensor, scale: float) -> float:
    """|scale * up @ down|^2 without computing the product: down [q, ...], up [out, q, ...]."""
    down, up = down.double().flatten(1), up.double().flatten(1)
    value = scale**2 * float(((up.T @ up) * (down @ down.T)).sum())
    return value if math.isfinite(value) else math.inf
