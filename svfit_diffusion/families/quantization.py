"""Bases in fewer bits, as in diffusers' guides: the denoiser and the frozen text encoders.

Encoders that a concept edits are small and keep their precision. A concept's basis is computed from
the base's files, so it does not depend on the precision that the base is loaded in.

"4bit" and "int8" are other packages' weights, and multiplied by their kernels. "fp8" only stores:
each layer's weight is cast to the precision of the computation while the layer is at work.
diffusers casts it in place, and so back, before the gradient was computed: where convolutions are
recomputed for it (`gradient_checkpointing`), PyTorch then finds eight bits that it cannot multiply.
Here a layer works on a copy.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from .base import Family
from .lending import instead_of

PACKAGES = {"4bit": "bitsandbytes", "int8": "torchao"}
FP8 = "fp8"
STORED = torch.float8_e4m3fn


def quantization(kind: str, family: Family, dtype: torch.dtype) -> Any:
    """The configuration for diffusers. kind: "4bit" (bitsandbytes' NF4) or "int8" (torchao).

    dtype: of the computation. Raises ValueError when the needed package is not installed.
    """
    if kind not in PACKAGES:
        known = ", ".join((*PACKAGES, FP8))
        raise ValueError(f"quantize is {kind!r}, but must be one of {known}.")
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


def store_in_fp8(pipe: Any, family: Family, dtype: torch.dtype) -> None:
    """Store the Linear and convolution weights of the denoiser and of the frozen text encoders as
    float8_e4m3fn, without scales; normalisations and embeddings of positions keep their precision.

    dtype: of the computation. ValueError for a weight that has no finite value there.
    """
    from diffusers.hooks import apply_layerwise_casting
    from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

    denoiser = getattr(pipe, family.denoiser)
    if not any(casts(denoiser)):
        _check_range(denoiser)
        denoiser.enable_layerwise_casting(STORED, dtype)
        _work_on_copies(denoiser)
    for encoder in family.frozen_text_encoders:
        model = getattr(pipe, encoder.model, None)
        if model is not None and not any(casts(model)):
            _check_range(model)
            skipped = (*DEFAULT_SKIP_MODULES_PATTERN, *(model._keep_in_fp32_modules or ()))
            kept = (f"^{re.escape(name)}$" for name in _kept_layers(model))
            apply_layerwise_casting(model, STORED, dtype, (*skipped, *kept), (nn.Embedding,))
            _work_on_copies(model)


def casts(model: nn.Module) -> Iterator[tuple[nn.Module, torch.dtype]]:
    """The layers of a model that are stored in another precision than they compute in, and that."""
    for module in model.modules():
        registry = module.__dict__.get("_diffusers_hook")
        if hook := registry and registry.get_hook("layerwise_casting"):
            yield module, hook.compute_dtype


def _kept_layers(encoder: nn.Module) -> Iterator[str]:
    """The layer of the first weight, whose precision is taken for the encoder's, and those that
    share an embedding's.
    """
    first, _ = next(encoder.named_parameters())
    yield first.rpartition(".")[0]
    tables = {id(m.weight) for m in encoder.modules() if isinstance(m, nn.Embedding)}
    for name, module in encoder.named_modules():
        if id(getattr(module, "weight", None)) in tables:
            yield name


def _check_range(model: nn.Module) -> None:
    most = torch.finfo(STORED).max
    for name, weight in model.named_parameters():
        if weight.is_meta or weight.ndim < 2:
            continue
        if not weight.detach().abs().amax() <= most:
            raise ValueError(
                f"{name} has numbers above {most:g}, the largest that fp8 has; pass --quantize "
                "int8, or leave it out."
            )


def _work_on_copies(model: nn.Module) -> None:
    """Let each layer that is cast compute with a copy of its weights, which are never changed."""
    for module, dtype in casts(model):
        module.forward = functools.partial(_forward, module, dtype)


def _forward(module: nn.Module, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Tensor:
    """The layer's own forward, with its weights in `dtype`."""
    held = module._parameters
    places = [(held, name) for name, weight in held.items() if weight is not None]
    with instead_of(places, lambda weight: weight.detach().to(dtype)):
        return type(module).forward(module, *args, **kwargs)
