"""A LoRA of the same base as a concept: what of it the singular basis can hold.

A LoRA may turn directions into one another, which a change of singular values cannot; so most
foreign LoRAs lose nearly all of their energy here, and the figure says so. What this program
exported comes back whole. The file is a stranger's: capped, safetensors only, checked.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .attention import layout
from .cache import loaded_weight
from .concept import Concept, printable
from .families import base_name, recognise
from .lora import PREFIXES, known_names, project
from .matching import identify, seal
from .svd import parse_rank, resolve_rank
from .verify import basis_of

MAX_FILE = 4_000_000_000  # bytes
MAX_HEADER = 10_000_000  # bytes
MAX_TENSORS = 50_000
ENDS = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Imported:
    """A concept and what it holds of its LoRA: the share of its energy (squared norm), 0 to 1.

    used, others: modules of the LoRA that are projections of the concept, and that are not.
    """

    concept: Concept
    share: float
    used: int
    others: int


def import_lora(
    path: str | Path, pipe: Any, rank: int | str = 16, trigger: str | None = None
) -> Imported:
    """Project a LoRA file (kohya's or diffusers' names) of the base `pipe` onto its basis.

    rank: as for a training. trigger: words such as "sks dog"; default: what the file states.
    Raises ValueError that names the file and what is wrong with it, or that it is of another base.
    """
    pairs, metadata = read_lora(Path(path))
    family = recognise(pipe)
    if family.name not in PREFIXES:
        raise ValueError(f"LoRA import knows the families {', '.join(PREFIXES)}.")
    models = family.components(pipe)
    targets = {part: "both" if part == family.denoiser else "self" for part in models}
    plan = layout(models, targets)
    known = known_names(plan, family.name, pairs, pipe.unet)
    parts = {projection.part for projection in known.values()}
    targets = {part: kind for part, kind in targets.items() if part in parts}
    _check_shapes(path, pairs, known)
    plan = [projection for projection in plan if projection.part in parts]
    ranks = _ranks(plan, models, rank)
    models = {part: models[part] for part in targets}
    bases = basis_of(plan, ranks, models, family, folders={})
    deltas, kept, total = project(pairs, known, plan, bases)
    if not 0 < total < math.inf:
        raise ValueError(f"{path} is a LoRA of no finite, non-zero edit; there is nothing to keep.")
    words = (trigger or metadata.get("modelspec.trigger_phrase", ""))[:200]
    token, _, noun = printable(words).strip().partition(" ")
    concept = Concept(
        deltas=np.concatenate(deltas).astype(np.float16),
        rank=str(parse_rank(rank)),
        base=base_name(str(getattr(pipe.config, "_name_or_path", ""))),
        token=token,
        class_word=noun,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        training={"imported": "LoRA", "energy": round(kept / total, 6)},
        **identify(models, targets, family, plan, ranks),
    )
    concept = seal(concept, models, family)
    return Imported(concept, kept / total, len(known), len(pairs) - len(known))


def read_lora(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor, float]], dict[str, str]]:
    """Module -> (down [q, in], up [out, q], scale), and the file's metadata.

    Raises ValueError for what is no LoRA of the plain kind.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; name a LoRA's .safetensors file.")
    try:
        _check_size(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            if len(names) > MAX_TENSORS:
                raise ValueError(f"{path} holds {len(names):,} tensors, more than any LoRA.")
            tensors = {name: file.get_tensor(name) for name in sorted(names)}
    except (OSError, SafetensorError) as error:
        reason = printable(str(error).splitlines()[0], 200).rstrip(".")
        raise ValueError(f"{path} cannot be read as a safetensors file: {reason}.") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {printable(name, 80)} holds no finite float16 or float32.")
    return _pairs(path, tensors, _alphas(path, metadata)), metadata


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size > MAX_FILE or header > MAX_HEADER:
        raise ValueError(
            f"{path} has {size:,} bytes and a header of {header:,}, but at most {MAX_FILE:,} and "
            f"{MAX_HEADER:,} are read; it is no LoRA, or no safetensors file."
        )


def _alphas(path: Path, metadata: dict[str, str]) -> dict:
    """diffusers' own metadata: `unet.lora_alpha`, `unet.alpha_pattern` and the like."""
    try:
        found = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: its lora_adapter_metadata is not a JSON object.")
    for key, value in found.items():
        if value and key.endswith((".use_rslora", ".use_dora")):
            raise ValueError(f"{path} is a LoRA with {printable(key, 60)}, which is not supported.")
    return found


def _pairs(path: Path, tensors: dict[str, Tensor], settings: dict) -> dict:
    pairs = {}
    for name in [n for n in tensors if n.endswith(tuple(down for down, _ in ENDS))]:
        end, other = next(ends for ends in ENDS if name.endswith(ends[0]))
        module = name.removesuffix(end)
        down, up = tensors.pop(name), tensors.pop(module + other, None)
        alpha = tensors.pop(f"{module}.alpha", None)
        fits = up is not None and min(up.ndim, down.ndim) >= 2 and up.shape[1] == down.shape[0] > 0
        if not fits or (alpha is not None and alpha.numel() != 1):
            raise ValueError(f"{path}: {printable(module, 100)} lacks a half, or they do not fit.")
        part, _, local = module.partition(".")
        stated = settings.get(f"{part}.lora_alpha")
        pattern = settings.get(f"{part}.alpha_pattern")
        if isinstance(pattern, dict) and local in pattern:
            stated = pattern[local]
        value = float(alpha) if alpha is not None else stated
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"{path}: the alpha of {printable(module, 100)} is no number.")
        pairs[module] = (down, up, 1.0 if value is None else value / len(down))
    if tensors or not pairs:
        odd = f" such as {printable(next(iter(tensors)), 80)!r}" if tensors else ""
        raise ValueError(
            f"{path} is no plain LoRA: it has tensors{odd} that are not pairs of lora_down and "
            "lora_up (kohya) or lora_A and lora_B (diffusers); LoHa, LoKr and DoRA are not read."
        )
    return pairs


def _check_shapes(path: str | Path, pairs: dict, known: dict) -> None:
    if not known:
        raise ValueError(
            f"{path} names no attention projection of this base, as "
            f"{printable(next(iter(pairs)), 80)!r} is none; it is a LoRA of another kind of base."
        )
    if len(set(known.values())) != len(known):
        raise ValueError(f"{path} names a projection twice, in two ways.")
    for module, projection in known.items():
        down, up, _ = pairs[module]
        got = (len(up), down[0].numel())
        if got != (projection.out_features, projection.in_features):
            raise ValueError(
                f"{path}: {printable(module, 100)} is for a weight of {got[0]} x {got[1]}, but "
                f"this base has {projection.out_features} x {projection.in_features} there; "
                "it is a LoRA of another base."
            )


def _ranks(plan: list, models: dict, rank: int | str) -> tuple[int, ...]:
    """The rank of each projection. A rule by energy needs its weight; the others only its size."""
    rule = parse_rank(rank)
    if isinstance(rule, str) and rule != "full":
        weights = (loaded_weight(models[p.part].get_submodule(p.local)) for p in plan)
        return tuple(resolve_rank(weight.float(), rule) for weight in weights)
    sizes = (min(p.out_features, p.in_features) for p in plan)
    return tuple(size if rule == "full" else min(rule, size) for size in sizes)
