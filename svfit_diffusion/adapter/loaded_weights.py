"""The weights of a base as they are in memory: below adapters, dequantised, and compared with a
file's by a sample of their values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROWS, COLUMNS = 4, 16  # of a weight, to compare what was loaded with a file
ROUND_TRIP = 2.0**-8, 2.0**-25  # relative and absolute rounding of bfloat16 and float16


def loaded_weight(module: nn.Module) -> Tensor:
    """Weight [out, in] of a Linear (below any adapter), dequantised where it is quantised."""
    module, kept = innermost(module)
    if kept is not None:
        return kept.detach()  # a fused concept is no part of the base
    if is_gguf(module):
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        return dequantize_gguf_tensor(module.weight).detach()
    backend = quantization(module)
    return module.weight.detach() if backend is None else backend.get_base_weight(module).detach()


def is_gguf(linear: nn.Module) -> bool:
    """Whether a Linear's weight is stored as GGUF does, in blocks of few bits."""
    return hasattr(linear.weight, "quant_type")  # peft has no backend for it


def innermost(module: nn.Module) -> tuple[nn.Module, Tensor | None]:
    """The Linear below any adapters, and its weight before a concept was fused into it, if so."""
    while hasattr(module, "base_layer"):
        if (kept := getattr(module, "kept_weight", None)) is not None:
            return module, kept
        module = module.base_layer
    return module, None


def quantization(module: nn.Module) -> Any:
    """What reads and writes the weight of a quantised Linear; None for another one."""
    from peft.utils import resolve_quantization_backend

    return resolve_quantization_backend(module, get_apply_tensor_subclass=lambda: None)


def comparable(module: nn.Module) -> Tensor | None:
    """The loaded weight [out, in], where it is there and should be the file's."""
    layer = module
    while hasattr(layer, "base_layer"):
        if getattr(layer, "kept_weight", None) is None and getattr(layer, "merged_adapters", ()):
            return None
        layer = layer.base_layer
    inner, kept = innermost(module)
    if kept is not None:
        return kept.detach()
    weight = inner.weight.detach()
    there = weight.is_floating_point() and not weight.is_meta
    return weight if there and quantization(inner) is None else None


def sample(weight: Tensor) -> Tensor:
    """Some values [rows, columns] of a weight [out, in], evenly spaced."""
    rows, columns = (max(1, n // k) for n, k in zip(weight.shape, (ROWS, COLUMNS), strict=True))
    return weight[rows // 2 :: rows, columns // 2 :: columns]


def agree(loaded: list[Tensor], stored: list[Tensor]) -> bool:
    """Whether samples of loaded weights are those of files, perhaps rounded."""
    kinds = [torch.finfo(dtype) for dtype in {sample.dtype for sample in loaded}]
    relative = max(ROUND_TRIP[0], *(kind.eps / 2 for kind in kinds))
    absolute = max(ROUND_TRIP[1], *(kind.smallest_normal * kind.eps / 2 for kind in kinds))
    ours, theirs = (
        torch.cat([s.flatten().cpu() for s in side]).double() for side in (loaded, stored)
    )
    return bool(((ours - theirs).abs() <= relative * theirs.abs() + absolute).all())
