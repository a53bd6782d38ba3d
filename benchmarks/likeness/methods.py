"""The methods of the likeness comparison: what each trains, and how much it must store.

Every method is applied to the same base with peft, and trained by the same loop. A method with a
token also learns the trigger's embedding, as ours does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import Tensor, nn

from svfit_diffusion.adapter.attention import find_projections, patch_attention, values_and_outputs
from svfit_diffusion.adapter.basis import Basis, factorize
from svfit_diffusion.adapter.tuner import SVFitConfig, layers
from svfit_diffusion.concept.packing import round_to_four_bits

NAME = "subject"
SD15_TOKEN = 768  # numbers of one trigger row on Stable Diffusion 1.5
BLOCK = 256  # values of a tensor with a scale of their own, in four bits


@dataclass(frozen=True)
class Method:
    """One row. adapter: see ADAPTERS, or "" for none. text: whether the text encoder is adapted.
    captions: whether the photos' captions name their backgrounds, as recognised by the base.

    bits: of a value in the file, 16 or 4; 4 with one scale per BLOCK of a tensor. rates: learning
    rates of the sweep. sd15: values on Stable Diffusion 1.5 for an adapted projection (out, in);
    sd15_text: the mean for the text encoder's, if different. judged: whether it is one of the rows
    of a few kilobytes.
    """

    name: str
    label: str
    adapter: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    token: bool = False
    text: bool = False
    captions: bool = False
    rates: tuple[float, ...] = (5e-3,)
    sd15: Callable[[int, int], int] | None = None
    sd15_text: Callable[[int, int], int] | None = None
    judged: bool = False
    bits: int = 16


class Core(nn.Module):
    """y = base(x) + x V C U^T with a trained core C [r, r] in the singular basis (LoRA-XS)."""

    def __init__(self, base: nn.Linear, basis: Basis) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("U", basis.U.float())
        self.register_buffer("V", basis.V.float())
        rank = basis.s.numel()
        self.core = nn.Parameter(torch.zeros(rank, rank))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return self.base(x) + ((x @ self.V) @ self.core) @ self.U.T


def _svfit(model: nn.Module, options: dict[str, Any]) -> Iterator[nn.Parameter]:
    options = dict(options)
    pattern = values_and_outputs(model, options.pop("text_rank", options["r"]))
    patch_attention(model, SVFitConfig(**options, rank_pattern=pattern), NAME)
    for layer in layers(model).values():
        yield layer.svfit_delta[NAME]


def _core(model: nn.Module, options: dict[str, Any]) -> Iterator[nn.Parameter]:
    for name in find_projections(model):
        parent, _, child = name.rpartition(".")
        base = model.get_submodule(name)
        module = Core(base, factorize(base.weight.detach(), options["r"]))
        setattr(model.get_submodule(parent), child, module)
        yield module.core


def _full(model: nn.Module, options: dict[str, Any]) -> Iterator[nn.Parameter]:
    for name in find_projections(model):
        weight = model.get_submodule(name).weight
        weight.requires_grad_(True)
        yield weight


def _peft(kind: str) -> Callable[[nn.Module, dict[str, Any]], Iterator[nn.Parameter]]:
    def attach(model: nn.Module, options: dict[str, Any]) -> Iterator[nn.Parameter]:
        config = getattr(peft, kind)(target_modules=sorted(find_projections(model)), **options)
        before = {name for name, p in model.named_parameters() if p.requires_grad}
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, {NAME: config}, NAME)
        model.__dict__["peft_tuner"] = tuner  # AdaLoRA must be called after every step
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name not in before:
                yield parameter

    return attach


ADAPTERS = {"svfit": _svfit, "core": _core, "full": _full}
for _kind in ("LoraConfig", "AdaLoraConfig", "TinyLoraConfig", "UniLoraConfig", "VBLoRAConfig",
              "WaveFTConfig", "VeraConfig", "HRAConfig", "PsoftConfig"):  # fmt: skip
    ADAPTERS[_kind] = _peft(_kind)


def attach(method: Method, models: dict[str, nn.Module], denoiser: str) -> dict[str, list]:
    """Apply a method to the models; returns its parameters, "denoiser" and "text"."""
    groups: dict[str, list] = {"denoiser": [], "text": []}
    if not method.adapter:
        return groups
    for part, model in models.items():
        if part == denoiser or method.text:
            found = ADAPTERS[method.adapter](model, method.options)
            groups["denoiser" if part == denoiser else "text"] += list(found)
    for parameter in (*groups["denoiser"], *groups["text"]):
        parameter.requires_grad_(True)
    return groups


def _lora(rank: int) -> dict[str, Any]:
    return {"r": rank, "lora_alpha": rank, "init_lora_weights": "gaussian"}


def _lora_values(rank: int) -> Callable[[int, int], int]:
    return lambda out, inner: rank * (out + inner)


def _constant(values: int) -> Callable[[int, int], int]:
    return lambda out, inner: values


def _whole(out: int, inner: int) -> int:
    return min(out, inner)


DELTAS, LORAS = (1.5e-2, 5e-2, 1e-1, 1.5e-1), (1.5e-3, 3e-3, 5e-3, 1.5e-2)
TOKEN = (5e-3, 1e-2, 2e-2)
# Ranks that are the same fraction of Toybox's 128 to 192 values as ...
RANK_EQUAL = 3  # 16 of Stable Diffusion's 320 to 1280
FOUR_BITS = 11  # 48 of those, with which a file in four bits is below 8 KB there
TEXT_RANK = 80  # 320 of the text encoder's 768, with 16 for all other projections


def _ours(
    rank: int | str, bits: int, text: bool = True, token: bool = True, captions: bool = False
) -> Method:
    """SVFit at a rank, with or without the text encoder, a token and captions."""
    label = f"SVFit {'full' if rank == 'full' else f'top {rank}'}"
    name = f"svfit-{rank}{'' if bits == 16 else f'-{bits}bit'}"
    sd15 = _whole if rank == "full" else _constant(round(16 * rank / RANK_EQUAL))
    return Method(
        f"{name}{'' if text else '-unet'}{'' if token else '-plain'}{'-captions' * captions}",
        f"{label}{', 4 bits' * (bits == 4)}{'' if text else ', UNet only'}{' + token' * token}"
        f"{' + captions' * captions}",
        "svfit", {"r": rank}, token=token, text=text, captions=captions, rates=DELTAS, bits=bits,
        sd15=_constant(48) if rank == FOUR_BITS else sd15,
        judged=rank == RANK_EQUAL or (rank == FOUR_BITS and bits == 4),
    )  # fmt: skip


DEFAULT = "SVFit top 3, text values and outputs top 80, 4 bits"
TEXT = {
    "options": {"r": RANK_EQUAL, "text_rank": TEXT_RANK},
    **{"token": True, "text": True, "rates": (*DELTAS, 3e-2), "bits": 4, "judged": True},
    **{"sd15": _constant(16), "sd15_text": _constant((320 + 16) // 2)},
}
METHODS = (
    Method("base", "base model"),
    Method("ti", "Textual Inversion", token=True, rates=TOKEN),
    Method("ti-captions", "Textual Inversion + captions", token=True, captions=True, rates=TOKEN),
    Method("svfit-text", f"{DEFAULT} + token + captions", "svfit", **TEXT, captions=True),
    Method("svfit-text-uncaptioned", f"{DEFAULT} + token", "svfit", **TEXT),
    _ours(RANK_EQUAL, 16),
    _ours(RANK_EQUAL, 16, text=False),
    _ours(RANK_EQUAL, 16, token=False),
    _ours(RANK_EQUAL, 4, captions=True),
    _ours(RANK_EQUAL, 4, text=False, captions=True),
    _ours(FOUR_BITS, 4),
    _ours("full", 4),
    Method("paper", "SVFit, 99 % of the energy", "svfit", {"r": "energy=0.99"}, text=True,
           rates=DELTAS, sd15=_whole),
    Method("paper-token", "SVFit, 99 % of the energy + token", "svfit", {"r": "energy=0.99"},
           token=True, text=True, rates=DELTAS, sd15=_whole),
    Method("core-3", "3 x 3 core (LoRA-XS), 4 bits + token", "core", {"r": 3}, token=True,
           text=True, rates=DELTAS, sd15=_constant(49), judged=True, bits=4),
    Method("tinylora", "TinyLoRA, 4 bits + token", "TinyLoraConfig", {"r": 2, "u": FOUR_BITS},
           token=True, text=True, rates=(1.5e-3, 5e-3, 2e-2, 8e-2), sd15=_constant(48), judged=True,
           bits=4),
    Method("unilora", "UniLoRA, 4 bits + token", "UniLoraConfig",
           {"r": 4, "theta_d_length": 68 * FOUR_BITS}, token=True, text=True,
           rates=(5e-3, 2e-2, 8e-2, 2e-1), judged=True, bits=4),
    Method("unilora-captions", "UniLoRA, 4 bits + token + captions", "UniLoraConfig",
           {"r": 4, "theta_d_length": 462}, token=True, text=True, captions=True,
           rates=(5e-3, 2e-2, 8e-2, 2e-1), judged=True, bits=4),  # as many bytes as the default
    Method("vblora", "VB-LoRA + token", "VBLoRAConfig",
           {"r": 1, "num_vectors": 16, "vector_length": 32, "topk": 2}, token=True,
           rates=(1e-3, 5e-3, 2e-2)),
    Method("waveft", "WaveFT, 4 bits + token", "WaveFTConfig", {"n_frequency": FOUR_BITS},
           token=True, text=True, rates=(3e-3, 1e-2, 5e-2, 2e-1), sd15=_constant(48), judged=True,
           bits=4),
    Method("vera", "VeRA + token", "VeraConfig", {"r": 16}, token=True, rates=(3e-3, 1e-2, 3e-2),
           sd15=lambda out, inner: out + 16),
    Method("lora-1", "LoRA rank 1", "LoraConfig", _lora(1), rates=LORAS, sd15=_lora_values(1)),
    Method("lora-4", "LoRA rank 4", "LoraConfig", _lora(4), rates=LORAS, sd15=_lora_values(4)),
    Method("lora-8", "LoRA rank 8", "LoraConfig", _lora(8), rates=LORAS, sd15=_lora_values(8)),
    Method("lora-4-token", "LoRA rank 4 + token", "LoraConfig", _lora(4), token=True, rates=LORAS,
           sd15=_lora_values(4)),
    Method("lora-4-captions", "LoRA rank 4 + captions", "LoraConfig", _lora(4), captions=True,
           rates=LORAS, sd15=_lora_values(4)),
    Method("lora-4-token-captions", "LoRA rank 4 + token + captions", "LoraConfig", _lora(4),
           token=True, captions=True, rates=LORAS, sd15=_lora_values(4)),
    Method("lora-4-text", "LoRA rank 4, text encoder too, + token", "LoraConfig", _lora(4),
           token=True, text=True, rates=LORAS, sd15=_lora_values(4)),
    Method("adalora", "AdaLoRA rank 6 to 4", "AdaLoraConfig",
           {"init_r": 6, "target_r": 4, "lora_alpha": 6, "tinit": 20, "tfinal": 50, "deltaT": 5,
            "total_step": 200}, rates=LORAS,
           sd15=lambda out, inner: 4 * (out + inner + 1)),
    Method("hra", "HRA rank 4", "HRAConfig", {"r": 4}, rates=(1e-3, 4e-3, 1.5e-2),
           sd15=lambda out, inner: 4 * inner),
    Method("psoft", "PSOFT rank 16", "PsoftConfig", {"r": 16, "psoft_alpha": 16},
           rates=(1e-3, 2e-3, 5e-3, 2e-2), sd15=_constant(16 * 15 // 2 + 32)),
    Method("full", "all attention weights", "full", rates=(5e-5, 2e-4, 8e-4, 2e-3),
           sd15=lambda out, inner: out * inner),
)  # fmt: skip
BY_NAME = {method.name: method for method in METHODS}


def sd15_bytes(method: Method, shapes: dict[str, list[tuple[int, int]]]) -> int | None:
    """Bytes on Stable Diffusion 1.5; shapes: (out, in) of projections of "denoiser", "text"."""
    if method.adapter and method.sd15 is None:
        return None
    parts = [(shapes["denoiser"], method.sd15)] if method.sd15 else []
    if parts and method.text:
        parts.append((shapes["text"], method.sd15_text or method.sd15))
    sizes = [values(*shape) for part, values in parts for shape in part]
    return tensor_bytes(sizes, method.bits) + 2 * SD15_TOKEN * method.token


def tensor_bytes(sizes: list[int], bits: int) -> int:
    """Bytes of tensors of these numbers of values, with a scale for each block if in four bits."""
    scales = sum(math.ceil(size / BLOCK) for size in sizes) if bits == 4 else 0
    return math.ceil(sum(sizes) * bits / 8) + 2 * scales


@torch.no_grad()
def round_values(parameter: nn.Parameter, block: int = BLOCK) -> None:
    """Round an adapter's tensor to four bits, block by block."""
    blocks = parameter.detach().flatten().split(block)
    held = [torch.from_numpy(round_to_four_bits(part.numpy())) for part in blocks]
    parameter.copy_(torch.cat(held).view_as(parameter))
