"""Bases in fewer bits, as in diffusers' guides: the denoiser and the frozen text encoders.

Encoders that a concept edits are small and keep their precision. A concept's basis is computed from
the base's files, so it does not depend on the precision that the base is loaded in.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from .base import Family

PACKAGES = {"4bit": "bitsandbytes", "int8": "torchao"}


def quantization(kind: str, family: Family, dtype: torch.dtype) -> Any:
    """The configuration for diffusers. kind: "4bit" (bitsandbytes' NF4) or "int8" (torchao).

    dtype: of the computation. Raises ValueError when the needed package is not installed.
    """
    if kind not in PACKAGES:
        raise ValueError(f"quantize is {kind!r}, but must be one of {', '.join(PACKAGES)}.")
    if find_spec(PACKAGES[kind]) is None:
        raise ValueError(
            f"quantize {kind} needs {PACKAGES[kind]}; run `pip install {PACKAGES[kind]}`."
        )
    import diffusers
    import transformers

    def settings(library: Any) -> Any:
        if kind == "int8":
            from torchao.quantization import Int8WeightOnlyConfig

            return library.TorchAoConfig(Int8WeightOnlyConfig())
        return library.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )

    frozen = {encoder.model: settings(transformers) for encoder in family.frozen_text_encoders}
    mapping = {family.denoiser: settings(diffusers), **frozen}
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)
