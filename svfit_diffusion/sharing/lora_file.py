"""Reading an untrusted file of another program: a LoRA, or SVDiff's spectral shifts.

The file is limited in size, safetensors only, and checked: names, shapes, types and numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..concept import Refused, check_tensors, printable, read_header, read_json
from .edits import Edit, LowRank, SpectralShift

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
PEFT = "base_model.model."  # before the names in its files
IGNORED = "bundle_emb."  # embeddings that AUTOMATIC1111 reads from a LoRA
DTYPES = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I64": 8}  # bytes of a number; alphas may be int
SHIFT = ".delta"  # the end of a tensor's name in svdiff-pytorch's files


def read_edits(path: Path) -> tuple[dict[str, Edit], dict[str, str]]:
    """Module -> what is changed there, and the file's metadata.

    Raises ValueError for anything but a plain LoRA, or SVDiff's shifts.
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
    stated = settings or any(name.endswith(".alpha") for name in tensors)
    if tensors and not stated and all(name.startswith(PEFT) for name in tensors):
        settings = _peft_settings(path)
    for key, value in settings.items():
        if value and key.rpartition(".")[2] in ("use_rslora", "use_dora"):
            raise ValueError(
                f"{shown} is a LoRA with {printable(key, 60)}, which is not supported."
            )
    if all(name.endswith(SHIFT) and tensor.ndim == 1 for name, tensor in tensors.items()):
        shifts = {name.removesuffix(SHIFT): SpectralShift(t) for name, t in tensors.items()}
        if shifts:
            return dict(shifts), metadata
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


def _peft_settings(path: Path) -> dict[str, Any]:
    """What PEFT writes into adapter_config.json beside a LoRA; its scale is there alone."""
    config = path.parent / "adapter_config.json"
    try:
        held = read_json(config.read_text("utf-8"), config.name)
    except (OSError, ValueError, Refused):
        raise ValueError(
            f"{printable(str(path))} is PEFT's, whose alpha is in {config.name} beside it, which "
            "is missing or cannot be read; put it there."
        ) from None
    names = ("lora_alpha", "alpha_pattern", "use_rslora", "use_dora")
    return {name: held[name] for name in names if name in held}


def _of_pattern(path: str, pattern: dict, module: str, otherwise: Any) -> Any:
    """The alpha that PEFT's pattern, of modules' names or their ends, gives a module."""
    for name, alpha in pattern.items():
        plain = str(name).removeprefix("^").removesuffix("$")
        if not re.fullmatch(r"[\w.-]+", plain):
            raise ValueError(
                f"{path}: alphas are for {printable(str(name), 60)!r}, and only names are read, no "
                "regular expressions."
            )
        if f".{module}".endswith(f".{plain}"):
            return alpha
    return otherwise


def _pairs(path: str, tensors: dict[str, Tensor], settings: dict) -> dict[str, Edit]:
    """Module -> its pair of matrices; convolutions are flattened.

    settings: as diffusers writes them: `unet.lora_alpha`, `unet.alpha_pattern` and so on.
    """
    pairs: dict[str, Edit] = {}
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
        part, _, local = module.replace(PEFT, "", 1).partition(".")
        stated = settings.get(f"{part}.lora_alpha", settings.get("lora_alpha"))
        pattern = settings.get(f"{part}.alpha_pattern", settings.get("alpha_pattern"))
        if isinstance(pattern, dict):
            stated = _of_pattern(path, pattern, f"{part}.{local}", stated)
        value = float(alpha) if alpha is not None else stated
        value = len(down) if value is None else value
        if type(value) not in (int, float) or not abs(value) <= MAX_ALPHA:
            raise ValueError(
                f"{path}: the alpha of {printable(module, 100)} is not a number in range."
            )
        pairs[module] = LowRank(down.flatten(1), up.flatten(1), value / len(down))
    if tensors or not pairs:
        odd = f" such as {printable(next(iter(tensors)), 80)!r}" if tensors else ""
        raise ValueError(
            f"{path} is not a plain LoRA: it has tensors{odd} that are not pairs of lora_down and "
            "lora_up (kohya) or lora_A and lora_B (diffusers); LoHa, LoKr and DoRA are not "
            "supported."
        )
    return pairs
