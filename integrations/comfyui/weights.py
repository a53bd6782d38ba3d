"""The weights of a ComfyUI model as they were published, and the basis of each.

A concept is a change in the basis of the published weight. A loaded model may have LoRAs merged
into its weights: ModelPatcher keeps the originals in `backup`. It may also have been loaded in
fewer bits than were published: then the basis comes from the cache, where it is since the published
model was loaded here once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from svfit_diffusion.adapter import Basis, bases_of, held_weights

from .layout import Address, Part

EXACT = {  # published precision -> those that hold it to the bit
    "float16": {torch.float16, torch.float32},
    "bfloat16": {torch.bfloat16, torch.float32},
}
_FINGERPRINTS: weakref.WeakKeyDictionary[Any, dict[tuple, str]] = weakref.WeakKeyDictionary()


def shape_of(part: Part, name: str) -> tuple[int, int]:
    """(out, in) of a projection."""
    address = part.addresses[name]
    out, in_ = stored(part, address).shape
    return (out if isinstance(address, str) else address[1][2]), in_


def loaded(part: Part, name: str) -> Tensor:
    """Weight [out, in] of a projection as it was loaded, before any patch, on the CPU."""
    address = part.addresses[name]
    weight = stored(part, address).detach()
    weight = (weight if _is_plain(weight) else weight.dequantize()).to("cpu")
    return weight if isinstance(address, str) else weight.narrow(*address[1])


def is_exact(part: Part, dtype: str) -> bool:
    """Whether all weights were loaded in a precision that holds the published one."""
    return all(_is_plain(w) and w.dtype in EXACT[dtype] for w in _all_stored(part))


def bits(part: Part) -> int:
    """The least number of bits that a value of any weight was loaded in, at most 8 if quantised."""
    return min(8 * w.element_size() if _is_plain(w) else 8 for w in _all_stored(part))


def is_readable(part: Part) -> bool:
    """Whether `loaded` can read all weights."""
    return all(_is_plain(w) or _says_how(w) for w in _all_stored(part))


def fingerprint(part: Part, dtype: str) -> str:
    """Hash (hex) of all attention weights of a component; computed once for each loaded model."""
    key = (part.encoder, dtype, *sorted(part.addresses))
    held = _FINGERPRINTS.setdefault(part.patcher.model, {})
    if key not in held:
        every, read = part.addresses, lambda name: loaded(part, name)
        held[key] = _source(part, every, dtype, "", read).fingerprint()
    return held[key]


def bases(part: Part, ranks: Mapping[str, int], dtype: str, known: str) -> dict[str, Basis]:
    """Projection -> basis of the loaded weights, from the cache or newly computed.

    known: the fingerprint of the loaded weights.
    """
    told: list[str] = []

    def read(name: str) -> Tensor:
        if not told:
            told.append(name)
            logging.info(
                "SVFit: computing the basis of %d weights, once for this checkpoint.", len(ranks)
            )
        return loaded(part, name)

    return bases_of(_source(part, ranks, dtype, known, read), ranks)


def cached_bases(
    part: Part, ranks: Mapping[str, int], dtype: str, wanted: str
) -> dict[str, Basis] | None:
    """Projection -> basis of the published weights with a fingerprint, None if it is not cached."""

    def missing(name: str) -> Tensor:
        raise KeyError(name)

    try:
        return bases_of(_source(part, ranks, dtype, wanted, missing), ranks)
    except KeyError:
        return None


def cast_error(part: Part, found: Mapping[str, Basis]) -> float:
    """How far loaded weights are from the bases, relative: their values along singular directions
    against the singular values.
    """
    wrong = total = 0.0
    for name, basis in found.items():
        along = ((basis.U.T @ loaded(part, name).float()) * basis.V.T).sum(1)
        wrong += float((along - basis.s).square().sum())
        total += float(basis.s.square().sum())
    return (wrong / total) ** 0.5


def embedding(part: Part) -> Tensor:
    """The table of embeddings [tokens, width] of a text encoder, before any patch."""
    key = f"{part.encoder}.transformer.text_model.embeddings.token_embedding.weight"
    return stored(part, key).detach().to("cpu")


def stored(part: Part, address: Address) -> Tensor:
    """The parameter of an address before any patch, where and as it is."""
    key, patcher = address if isinstance(address, str) else address[0], part.patcher
    if (kept := patcher.backup.get(key)) is not None:
        return kept.weight
    if (hooked := patcher.hook_backup.get(key)) is not None:
        return hooked[0]
    return comfy.utils.get_attr(patcher.model, key)


def _all_stored(part: Part) -> list[Tensor]:
    return [stored(part, address) for address in part.addresses.values()]


def _is_plain(weight: Tensor) -> bool:
    """Whether it is an ordinary tensor of floating-point numbers."""
    return type(weight) in (Tensor, torch.nn.Parameter) and weight.is_floating_point()


def _says_how(weight: Tensor) -> bool:
    """Whether it is of a class that can dequantise it (ComfyUI's own, but not GGUF's)."""
    return type(weight).dequantize is not Tensor.dequantize


def _source(
    part: Part, names: Iterable[str], dtype: str, known: str, read: Callable[[str], Tensor]
) -> Any:
    shapes = {name: shape_of(part, name) for name in names}
    return held_weights(shapes, dtype, known, read)
