"""SVFit as a PEFT method: SVFitConfig and SVFitModel, registered with peft on import.

`get_peft_model(model, SVFitConfig(r=16))`, `unet.add_adapter(SVFitConfig(r=16))`, merging,
scaling, saving and all else that peft and diffusers do with an adapter work on it.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils import get_quantization_kwargs, register_peft_method, resolve_quantization_backend
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from ..concept import COMMON_SCALE
from .basis import Rank
from .cache import load_bases
from .config import SVFitConfig, peft_type
from .layer import BASE, SVFitLinear

TRAINABLE = "_svfit_trainable"  # attribute of a patched model: names that were trainable before


class SVFitModel(BaseTuner):
    """The tuner: puts an SVFitLinear around each targeted Linear.

    The bases of all of them are found together before the first is replaced, so that they come
    from one cache entry and are factored side by side.
    """

    prefix = "svfit_"
    tuner_layer_cls = SVFitLinear
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Find the bases of all targets, then let peft put the layers in."""
        config = _maybe_include_all_linear_layers(self.peft_config[adapter_name], model)
        ranks = {name: _rank_of(config, name) for name in self._targets(model, config)}
        if not tuner_layers(model):
            trainable = {name for name, p in model.named_parameters() if p.requires_grad}
            model.__dict__[TRAINABLE] = trainable
        where = config.base_dtype, config.basis_from
        self._bases = load_bases(model, ranks, *where) if ranks else {}
        self._quantization = get_quantization_kwargs(model)
        self._owner: SVFitLinear | None = None
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        self._bases, self._owner = {}, None

    @staticmethod
    def _check_target_module_exists(config: PeftConfig, key: str) -> Any:
        """As peft decides it, but a look at its endings rules out most names at once: the attention
        patch names every projection in full.
        """
        if isinstance(config.target_modules, set):
            parts = key.split(".")
            endings = (".".join(parts[i:]) for i in range(len(parts)))
            if not any(ending in config.target_modules for ending in endings):
                return False
        return BaseTuner._check_target_module_exists(config, key)

    def _targets(self, model: nn.Module, config: SVFitConfig) -> Iterator[str]:
        inside = None  # of which tuner layer
        for name, module in model.named_modules():
            if inside is not None and name.startswith(inside):
                continue
            if isinstance(module, BaseTunerLayer):
                inside = f"{name}."
            if self._check_target_module_exists(config, name):
                _check_linear(name, module)
                yield name

    def _create_and_replace(
        self,
        config: SVFitConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        """Next to the Linear itself, inside the layers of other methods, in whatever order they
        came: so a LoRA's file finds its layer where it expects it.
        """
        while hasattr(target, "base_layer") and not isinstance(target, SVFitLinear):
            parent, target_name, target = target, "base_layer", target.base_layer
        layer = target
        if not isinstance(target, SVFitLinear):
            layer = SVFitLinear(target, **self._quantization)
            if adapter_name != self.active_adapter:
                layer.requires_grad_(False)
        layer.update_layer(
            adapter_name,
            self._bases[current_key],
            key=f"{config.basis_from or ''}|{config.base_dtype or ''}".replace(".", "_"),
            init_weights=config.init_weights,
            inference_mode=config.inference_mode,
            common=config.common,
            name=current_key.replace(".base_layer", ""),
            owner=self._owner,
        )
        self._owner = self._owner or layer
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """For one call of peft's model: `adapter_names`, the adapter of each row of the batch."""
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        with adapter_rows(self, names):
            yield

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        """As peft's; safe_merge: ValueError, with no weight touched, if one would not be finite."""
        if safe_merge:
            self._check_merge(adapter_names)
        super().merge_adapter(adapter_names, safe_merge=False)

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """As peft's; safe_merge: ValueError, with no weight touched, if one would not be finite."""
        if safe_merge:
            self._check_merge(adapter_names)
        return super().merge_and_unload(progressbar, False, adapter_names)

    def _check_merge(self, adapter_names: list[str] | None) -> None:
        """All layers first, so that a model is never merged in part."""
        for layer in layers(self.model).values():
            layer.check_merge(adapter_names)


@contextlib.contextmanager
def adapter_rows(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """For a while, the adapter that acts on each row of a batch, or BASE; ValueError for one that
    the model does not have, or in training mode.
    """
    held = layers(model).values()
    known = {BASE, *(name for layer in held for name in layer.svfit_delta)}
    if model.training or (unknown := sorted(set(names) - known)):
        wrong = "the model is in training mode" if model.training else f"{unknown[0]!r} is none"
        raise ValueError(
            f"adapter_names picks loaded adapters for inference, but {wrong}; known are "
            f"{', '.join(sorted(known))}."
        )
    with_names = functools.partial(_with_adapter_names, list(names))
    hooks = [layer.register_forward_pre_hook(with_names, with_kwargs=True) for layer in held]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_adapter_names(names: list[str], _: nn.Module, args: Any, kwargs: dict) -> tuple:
    return args, kwargs | {"adapter_names": names}


def _rank_of(config: SVFitConfig, name: str) -> Rank:
    """The rank of a projection; `rank_pattern` names it in full, by its ending, or as a regular
    expression, as LoRA's does.
    """
    pattern = config.rank_pattern
    if name in pattern:
        return pattern[name]
    return pattern.get(get_pattern_key(pattern, name), config.r)


def _check_linear(name: str, module: nn.Module) -> None:
    """Refuse what is no Linear, quantised or not."""
    inner = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if not isinstance(inner, nn.Linear) and resolve_quantization_backend(inner) is None:
        raise ValueError(
            f"SVFit adapts Linear modules, but {name} is a {type(inner).__name__}; leave it out of "
            "target_modules."
        )


def tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """Name -> adapter layer, ours and other methods', in the order of `named_modules`.

    Four times as quick as those: all that is done with a concept asks.
    """
    found, waiting = {}, [("", model)]
    while waiting:
        name, module = waiting.pop()
        if isinstance(module, BaseTunerLayer):
            found[name[1:]] = module
        children = reversed(module._modules.items())
        waiting += [(f"{name}.{key}", child) for key, child in children if child is not None]
    return found


def layers(model: nn.Module) -> dict[str, SVFitLinear]:
    """Name -> layer of every projection of `model` that carries SVFit adapters, sorted by name.

    The name is that of the projection, also where layers of other methods lie around it.
    """
    found = (
        (name.replace(".base_layer", ""), module)
        for name, module in tuner_layers(model).items()
        if isinstance(module, SVFitLinear)
    )
    return dict(sorted(found))


def get_deltas(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """Projection name -> delta [r] (float32, CPU) of one adapter, sorted by name."""
    return {
        name: layer.svfit_delta[adapter_name].detach().cpu().float()
        for name, layer in layers(model).items()
        if adapter_name in layer.svfit_delta
    }


@torch.no_grad()
def set_deltas(model: nn.Module, adapter_name: str, deltas: dict[str, Tensor]) -> None:
    """Write deltas [r] into an adapter in place; the names must be all of its projections."""
    held = {n: m for n, m in layers(model).items() if adapter_name in m.svfit_delta}
    if set(held) != set(deltas):
        odd = sorted(set(held) ^ set(deltas))[0]
        raise ValueError(
            f"the deltas and the adapter {adapter_name!r} name different projections, {odd} for "
            "one; both must come from the same target rule."
        )
    for name, layer in held.items():
        layer.svfit_delta[adapter_name].copy_(deltas[name])


def get_common(model: nn.Module, adapter_name: str) -> Tensor | None:
    """A copy of the common vector [d] (float32, CPU) of an adapter, None where it has none."""
    held = common_parameter(model, adapter_name)
    return None if held is None else held.detach().to("cpu", torch.float32, copy=True)


@torch.no_grad()
def set_common(model: nn.Module, adapter_name: str, common: Tensor) -> None:
    """Write the common vector [d] of an adapter in place."""
    common_parameter(model, adapter_name).copy_(common)


def common_parameter(model: nn.Module, adapter_name: str) -> nn.Parameter | None:
    """The common vector [d] that the layers of an adapter share, None where it has none."""
    owners = (layer.svfit_owner.get(adapter_name) for layer in layers(model).values())
    owner = next(filter(None, owners), None)
    return None if owner is None else owner.svfit_common[adapter_name]


def tie_deltas(model: nn.Module, adapter_name: str) -> None:
    """Make an adapter's deltas such that every factorisation of the weights gives one edit."""
    for layer in layers(model).values():
        layer.tie(adapter_name)


def rms_singular_value(models: Iterable[nn.Module]) -> float:
    """Root mean square of all singular values of the weights that models' adapters edit.

    What a delta is large or small against. The squares sum up to the squared Frobenius norm.
    """
    squares, count = 0.0, 0
    for model in models:
        for layer in layers(model).values():
            weight = layer.get_base_weight().detach()
            squares += float(weight.float().square().sum())
            count += min(weight.shape)
    return math.sqrt(squares / count) if count else 1.0


def common_scale(model: nn.Module, adapter_name: str) -> float:
    """What a number of the common vector is large or small against: so large, all of the matrices
    M together would be as large as that vector of root mean square singular values.
    """
    held = [layer for layer in layers(model).values() if adapter_name in layer.svfit_owner]
    entries = sum(layer.in_features * layer.svfit_rank[adapter_name] for layer in held)
    size = common_parameter(model, adapter_name).numel()
    return rms_singular_value([model]) * math.sqrt(size / entries) / COMMON_SCALE


if peft_type("SVFIT") not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="svfit", config_cls=SVFitConfig, model_cls=SVFitModel)
