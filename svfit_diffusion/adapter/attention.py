"""The attention patch: finds a model's attention and puts SVFit around its projections.

diffusers models are asked through their attention processors, transformers text encoders through
their attention modules. Each projection found becomes an exact `target_modules` entry of the
model's own `add_adapter`; there is no other way in.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from peft import inject_adapter_in_model
from torch import nn

from ..settings import ATTENTION
from .basis import Rank
from .config import PROJECTIONS, SVFitConfig
from .layer import SVFitLinear
from .tuner import TRAINABLE, layers, tuner_layers

# FLUX.2's single-stream blocks: q, k, v and the MLP's input in one Linear, and their output. They
# are edited whole, not their rows of q, k and v alone: so an export is a LoRA of that Linear, as
# others train it. HiDream's second stream, and its output. Not in PROJECTIONS: other attention has
# a ModuleList called to_out.
NAMES = (
    *PROJECTIONS, "to_qkv_mlp_proj", "to_out", *("to_q_t", "to_k_t", "to_v_t", "to_out_t"),
)  # fmt: skip
VALUES = (  # those of NAMES that make values and outputs, in whole or in part
    *("to_v", "to_out.0", "add_v_proj", "to_add_out", "v_proj", "out_proj", "o_proj", "value"),
    *("to_qkv_mlp_proj", "to_out", "to_v_t", "to_out_t"),
)


@dataclass(frozen=True)
class Patched:
    """What patch_attention found: the projections' names, sorted, and the values they train."""

    model: str
    names: tuple[str, ...]
    self_attention: int
    cross_attention: int
    values: int

    def __str__(self) -> str:
        return (
            f"{self.model}: {len(self.names)} projections ({self.self_attention} of self-, "
            f"{self.cross_attention} of cross-attention), {self.values:,} values"
        )


def find_projections(model: nn.Module, attention: str = "both") -> dict[str, str]:
    """Name of each attention projection -> "self" or "cross", sorted by name.

    attention: "both", "self" or "cross". Raises ValueError when there is none.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention is {attention!r}, but must be one of {', '.join(ATTENTION)}.")
    found = {}
    for name, module in _attention_modules(model).items():
        kind = "cross" if getattr(module, "is_cross_attention", False) else "self"
        if attention in ("both", kind):
            held = dict(module.named_modules())
            found.update({f"{name}.{p}": kind for p in NAMES if _is_linear(held.get(p))})
    if not found:
        wanted = "" if attention == "both" else f"{attention}-"
        raise ValueError(
            f"{type(model).__name__} has no {wanted}attention projections, so SVFit has nothing to "
            "train there; pass a UNet, a diffusion transformer or a text encoder."
        )
    return dict(sorted(found.items()))


def values_and_outputs(model: nn.Module, rank: Rank) -> dict[str, Rank]:
    """Name of each projection that makes values or outputs of a model's attention -> `rank`.

    A `rank_pattern` for SVFitConfig.
    """
    endings = tuple(f".{name}" for name in VALUES)
    return {name: rank for name in find_projections(model) if name.endswith(endings)}


def patch_attention(
    model: nn.Module,
    config: SVFitConfig | None = None,
    adapter_name: str = "default",
    attention: str = "both",
) -> Patched:
    """Put an SVFit adapter around the attention projections of a UNet or a text encoder.

    config: its `target_modules` are replaced by what is found. attention: "both", "self" or
    "cross". Raises ValueError when the model has no such attention or the name is taken.
    """
    found = find_projections(model, attention)
    if adapter_name in getattr(model, "peft_config", {}):
        raise ValueError(
            f"{type(model).__name__} already has an adapter named {adapter_name!r}; remove it "
            "first or choose another name."
        )
    config = copy.deepcopy(config or SVFitConfig())
    config.target_modules = set(found)
    with warnings.catch_warnings():  # peft warns of every second adapter; several are the point
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        if hasattr(model, "add_adapter"):
            model.add_adapter(config, adapter_name)
        else:
            inject_adapter_in_model(config, model, adapter_name)
    patched = layers(model)
    kinds = list(found.values())
    return Patched(
        type(model).__name__,
        tuple(found),
        kinds.count("self"),
        kinds.count("cross"),
        sum(patched[name].svfit_rank[adapter_name] for name in found),
    )


class Projection(NamedTuple):
    """One projection of a pipeline: its canonical name, where it is, and its size."""

    name: str
    part: str
    local: str
    out_features: int
    in_features: int


def layout(models: Mapping[str, nn.Module], targets: Mapping[str, str]) -> list[Projection]:
    """All projections that the targets (component -> attention) name, by canonical name.

    The order of concept files. transformers 5.6 and later name a CLIP encoder's modules without
    `text_model.`; canonical names always have it.
    """
    found = []
    for part, attention in targets.items():
        prefix = "text_model." if part.startswith("text_encoder") else ""
        for local in find_projections(models[part], attention):
            name = f"{part}.{prefix}{local.removeprefix(prefix)}"
            module = models[part].get_submodule(local)
            found.append(Projection(name, part, local, module.out_features, module.in_features))
    return sorted(found)


def unpatch_attention(model: nn.Module, adapter_name: str) -> None:
    """Remove an adapter; where none is left on a projection, its own Linear stands there again.

    With the last adapter, the model's own parameters are as trainable as they were before it.
    """
    left = False
    for name, layer in tuner_layers(model).items():
        if not isinstance(layer, SVFitLinear):
            left = True
            continue
        layer.drop(adapter_name)
        if layer.svfit_delta:
            left = True
        else:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base_layer)
    configs = getattr(model, "peft_config", {})
    configs.pop(adapter_name, None)
    if not configs and hasattr(model, "peft_config"):
        del model.peft_config
        model._hf_peft_config_loaded = False
    if not left and (trainable := model.__dict__.pop(TRAINABLE, ())):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name in trainable)


def _attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    processors = getattr(model, "attn_processors", None)
    if processors is not None:
        names = (key.removesuffix(".processor") for key in processors)
        found = {name: model.get_submodule(name) for name in names}
        if fused := [name for name, module in found.items() if _is_fused(module)]:
            raise ValueError(
                f"fuse_qkv_projections() was called on this {type(model).__name__}, so {fused[0]} "
                "no longer reads its to_q, to_k and to_v, which SVFit edits; call "
                "unfuse_qkv_projections() first."
            )
        return found
    return {
        name: module
        for name, module in model.named_modules()
        if "Attention" in type(module).__name__
        and (hasattr(module, "q_proj") or hasattr(module, "to_q"))  # Z-Image lists no processors
    }


def _is_fused(module: nn.Module) -> bool:
    """Whether an attention module reads one fused projection in place of to_q, to_k and to_v."""
    if "Fused" in type(getattr(module, "processor", None)).__name__:
        return True
    by_processor = hasattr(module, "fuse_projections") and not hasattr(module, "unfuse_projections")
    return getattr(module, "fused_projections", False) and not by_processor


def _is_linear(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Linear | SVFitLinear) or hasattr(module, "in_features")
