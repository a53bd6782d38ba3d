"""A LoRA as a concept of the same base: its projection onto the singular basis.

A LoRA can map singular directions to each other, which a change of singular values cannot; so most
LoRAs of other programs lose nearly all of their energy, and the result states how much is kept.
What this program exported comes back unchanged. The file is untrusted: limited in size, safetensors
only, and checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..adapter import find_source, layout, parse_rank, resolve_rank
from ..concept import Concept, Refused, check_tensors, printable, read_header, read_json
from ..families import base_name, recognise
from ..pipeline import base_fields, basis_of, with_self_check
from .lora import project
from .lora_names import TEXT_PREFIXES, known_names

MAX_FILE = 4_000_000_000  # bytes
MAX_HEADER = 4_000_000  # bytes; trainers store their captions' tags in it
MAX_TENSORS = 20_000
MAX_RANK = 1_024
MAX_ALPHA = 1e6
ENDS = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),  # of diffusers' attention processors
)
MIDDLE = ".lora_mid.weight"  # of a convolution's LoRA: [q, q, height, width]
IGNORED = "bundle_emb."  # embeddings that AUTOMATIC1111 reads from a LoRA
DTYPES = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I64": 8}  # bytes of a number; alphas may be int


@dataclass(frozen=True)
class Imported:
    """A concept, and the share of its LoRA's energy (squared norm) that it keeps, 0 to 1.

    used: the number of the LoRA's modules that are projections of the concept. others: of the rest.
    """

    concept: Concept
    share: float
    used: int
    others: int


def import_lora(
    path: str | Path, pipe: Any, rank: int | str = 16, trigger: str | None = None
) -> Imported:
    """Project a LoRA file (kohya's or diffusers' names) of the base `pipe` onto its basis.

    rank: as for a training. trigger: words such as "sks dog"; default: those in the file. Raises
    ValueError that names the file and what is wrong with it, such as another base.
    """
    pairs, metadata = read_lora(Path(path))
    path = printable(str(path))
    family = recognise(pipe)
    if family.name not in TEXT_PREFIXES:
        raise ValueError(f"LoRA import supports the families {', '.join(TEXT_PREFIXES)}.")
    models = family.components(pipe)
    targets = {part: "both" if part == family.denoiser else "self" for part in models}
    plan = layout(models, targets)
    known = known_names(plan, family.name, pairs, models)
    parts = {projection.part for held in known.values() for projection, _ in held}
    targets = {part: kind for part, kind in targets.items() if part in parts}
    _check_shapes(path, pairs, known)
    plan = [projection for projection in plan if projection.part in parts]
    ranks = _ranks(plan, models, rank, family.dtype)
    models = {part: models[part] for part in targets}
    bases = basis_of(plan, ranks, models, family, folders={})
    deltas, kept, total = project(pairs, known, plan, bases)
    if not 0 < total < math.inf:
        raise ValueError(f"{path} is a LoRA whose edit is zero or not finite; nothing can be kept.")
    words = (trigger or metadata.get("modelspec.trigger_phrase", ""))[:200]
    token, _, noun = printable(words).strip().partition(" ")
    with np.errstate(over="ignore"):
        found = np.concatenate(deltas).astype(np.float16)
    if not np.isfinite(found).all():
        raise ValueError(f"{path} changes the base by more than a concept's float16 can represent.")
    concept = Concept(
        deltas=found,
        rank=str(parse_rank(rank)),
        base=base_name(str(getattr(pipe.config, "_name_or_path", ""))),
        token=token,
        class_word=noun,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        training={"imported": "LoRA", "energy": round(kept / total, 6)},
        **base_fields(models, targets, family, plan, ranks),
    )
    concept = with_self_check(concept, models, family)
    return Imported(concept, kept / total, len(known), len(pairs) - len(known))


def read_lora(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor, float]], dict[str, str]]:
    """Module -> (down [q, in], up [out, q], scale), and the file's metadata.

    Raises ValueError for anything but a plain LoRA.
    """
    shown = printable(str(path))
    if not path.is_file():
        raise ValueError(f"{shown} is not a file; name a LoRA's .safetensors file.")
    try:
        metadata, names = _header(path)
        with safe_open(path, framework="pt") as file:
            used = (name for name in names if not name.startswith(IGNORED))
            tensors = {name: file.get_tensor(name) for name in used}
        settings = read_json(metadata.get("lora_adapter_metadata", "{}"), "lora_adapter_metadata")
    except Refused as reason:
        raise ValueError(f"{shown} is not a usable LoRA: {reason}.") from None
    except (OSError, SafetensorError) as error:
        reason = printable(str(error), 200).rstrip(".")
        raise ValueError(f"{shown} cannot be read as a safetensors file: {reason}.") from None
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or name.endswith(".alpha")):
            raise ValueError(f"{shown}: {printable(name, 80)} holds integers, not float numbers.")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{shown}: {printable(name, 80)} holds NaN or infinity.")
    for key, value in settings.items():
        if value and key.endswith((".use_rslora", ".use_dora")):
            raise ValueError(
                f"{shown} is a LoRA with {printable(key, 60)}, which is not supported."
            )
    return _pairs(shown, tensors, settings), metadata


def _header(path: Path) -> tuple[dict[str, str], list[str]]:
    """The metadata and sorted tensor names of a file. Raises Refused for an invalid header."""
    size = path.stat().st_size
    if size > MAX_FILE:
        raise Refused(f"it has {size:,} bytes, more than {MAX_FILE:,}")
    with path.open("rb") as file:
        header, start = read_header(file.read(8 + MAX_HEADER), size, MAX_HEADER)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Refused("its metadata is not text")
    if len(header) > MAX_TENSORS:
        raise Refused(f"it holds {len(header):,} tensors, more than {MAX_TENSORS:,}")
    check_tensors(header, size - start, DTYPES, range(5))
    return metadata, sorted(header)


def _pairs(path: str, tensors: dict[str, Tensor], settings: dict) -> dict:
    """Module -> (down [q, in], up [out, q], scale); convolutions are flattened.

    settings: as diffusers writes them: `unet.lora_alpha`, `unet.alpha_pattern` and so on.
    """
    pairs = {}
    for name in [n for n in tensors if n.endswith(tuple(down for down, _ in ENDS))]:
        end, other = next(ends for ends in ENDS if name.endswith(ends[0]))
        module = name.removesuffix(end)
        down, up = tensors.pop(name), tensors.pop(module + other, None)
        alpha, middle = tensors.pop(f"{module}.alpha", None), tensors.pop(module + MIDDLE, None)
        fits = up is not None and min(up.ndim, down.ndim) >= 2 and up[:1].numel() == len(down) > 0
        if fits and middle is not None:
            fits = middle.ndim == 4 and middle.shape[:2] == (len(down), len(down))
            up = torch.einsum("oa,abhw->ohwb", up.flatten(1), middle).flatten(0, 2) if fits else up
        if not fits or not down.numel() or (alpha is not None and alpha.numel() != 1):
            raise ValueError(
                f"{path}: {printable(module, 100)} lacks one of its two matrices, or they do not "
                "match."
            )
        if len(down) > MAX_RANK:
            raise ValueError(f"{path} has a rank of {len(down):,}; at most {MAX_RANK:,} is read.")
        part, _, local = module.replace("base_model.model.", "", 1).partition(".")
        stated = settings.get(f"{part}.lora_alpha")
        pattern = settings.get(f"{part}.alpha_pattern")
        if isinstance(pattern, dict) and local in pattern:
            stated = pattern[local]
        value = float(alpha) if alpha is not None else stated
        value = len(down) if value is None else value
        if type(value) not in (int, float) or not abs(value) <= MAX_ALPHA:
            raise ValueError(
                f"{path}: the alpha of {printable(module, 100)} is not a number in range."
            )
        pairs[module] = (down.flatten(1), up.flatten(1), value / len(down))
    if tensors or not pairs:
        odd = f" such as {printable(next(iter(tensors)), 80)!r}" if tensors else ""
        raise ValueError(
            f"{path} is not a plain LoRA: it has tensors{odd} that are not pairs of lora_down and "
            "lora_up (kohya) or lora_A and lora_B (diffusers); LoHa, LoKr and DoRA are not "
            "supported."
        )
    return pairs


def _check_shapes(path: str, pairs: dict, known: dict) -> None:
    if not known:
        raise ValueError(
            f"{path} has no attention projection of this base: for example, "
            f"{printable(next(iter(pairs)), 80)!r} is none. It is a LoRA for another kind of base."
        )
    projections = [projection for held in known.values() for projection, _ in held]
    if len(set(projections)) != len(projections):
        raise ValueError(f"{path} has one projection under two names.")
    for module, ((projection, place), *_) in known.items():
        down, up, _ = pairs[module]
        got, wanted = (len(up), down.shape[1]), (place.rows, projection.in_features)
        if got != wanted:
            raise ValueError(
                f"{path}: {printable(module, 100)} is for a weight of {got[0]} x {got[1]}, but "
                f"this base's is {wanted[0]} x {wanted[1]}; it is a LoRA for another base."
            )


def _ranks(plan: list, models: dict, rank: int | str, dtype: str | None) -> tuple[int, ...]:
    """The rank of each projection. A rule by energy needs the weights, others only their shapes."""
    rule = parse_rank(rank)
    if isinstance(rule, str) and rule != "full":
        names: dict[str, list[str]] = {}
        for p in plan:
            names.setdefault(p.part, []).append(p.local)
        sources = {part: find_source(models[part], held, dtype) for part, held in names.items()}
        weights = (sources[p.part].weight(p.local) for p in plan)
        return tuple(resolve_rank(weight.float(), rule) for weight in weights)
    sizes = (min(p.out_features, p.in_features) for p in plan)
    return tuple(size if rule == "full" else min(rule, size) for size in sizes)
