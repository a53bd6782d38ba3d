"""SVFit as a PEFT method: SVFitConfig and SVFitModel, registered with peft on import.

`get_peft_model(model, SVFitConfig(r=16))`, `unet.add_adapter(SVFitConfig(r=16))`, merging,
scaling, saving and all else that peft and diffusers do with an adapter work on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import get_quantization_kwargs, register_peft_method, resolve_quantization_backend
from torch import Tensor, nn

from .basis import Rank, parse_rank
from .cache import load_bases
from .layer import SVFitLinear

PROJECTIONS = (
    *("to_q", "to_k", "to_v", "to_out.0"),  # diffusers' attention
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),  # its second stream (MMDiT)
    *("q_proj", "k_proj", "v_proj", "out_proj", "o_proj"),  # transformers' attention
    *("query", "key", "value"),
)


def _peft_type(name: str) -> PeftType:
    """The PeftType member called `name`, added to the enum if peft does not have it."""
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        setattr(PeftType, name, member)  # since Python 3.12 `PeftType.NAME` is read from the class
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
    return PeftType[name]


@dataclass
class SVFitConfig(PeftConfig):
    """Which projections SVFit trains, and how many singular values of each.

    Raises ValueError when `r` is no rank rule (svd.parse_rank).
    """

    r: Rank = field(
        default=16,
        metadata={"help": "top singular values trained: a number, 'full' or 'energy=0.99'"},
    )
    target_modules: list[str] | str | None = field(
        default=PROJECTIONS,
        metadata={"help": "names of the Linear modules to adapt, or a regular expression"},
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "names of modules not to adapt, or a regular expression"}
    )
    rank_pattern: dict[str, Rank] = field(
        default_factory=dict, metadata={"help": "module name -> rank, where it is not `r`"}
    )
    base_dtype: str | None = field(
        default=None,
        metadata={"help": "precision the base is published in; None: as its weights are loaded"},
    )
    basis_from: str | None = field(
        default=None,
        metadata={"help": "folder of the weight files to take the basis from, if not the model's"},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "modules trained and saved whole, such as a classifier"}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "deltas start at zero, which is the base model exactly"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = _peft_type("SVFIT")
        self.r = parse_rank(self.r)
        self.rank_pattern = {name: parse_rank(rank) for name, rank in self.rank_pattern.items()}
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list | tuple):
                setattr(self, name, set(value))
        dtype = getattr(torch, self.base_dtype or "float32", None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(
                f"base_dtype is {self.base_dtype!r}, but must name a torch dtype such as 'float16'."
            )


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
        config = self.peft_config[adapter_name]
        ranks = {
            name: config.rank_pattern.get(name, config.r) for name in self._targets(model, config)
        }
        where = config.base_dtype, config.basis_from
        self._bases = load_bases(model, ranks, *where) if ranks else {}
        self._quantization = get_quantization_kwargs(model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        self._bases = {}

    @staticmethod
    def _check_target_module_exists(config: PeftConfig, key: str) -> Any:
        """As peft decides it, but names that match nothing are told by a look at their endings:
        the attention patch names every projection in full.
        """
        if isinstance(config.target_modules, set):
            parts = key.split(".")
            endings = (".".join(parts[i:]) for i in range(len(parts)))
            if not any(ending in config.target_modules for ending in endings):
                return False
        return BaseTuner._check_target_module_exists(config, key)

    def _targets(self, model: nn.Module, config: SVFitConfig) -> Iterator[str]:
        for name, module in model.named_modules():
            inside = ".base_layer" in name or self.prefix in name
            if not inside and self._check_target_module_exists(config, name):
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
        )
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

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


def _check_linear(name: str, module: nn.Module) -> None:
    """Refuse what is no Linear, quantised or not."""
    inner = module.get_base_layer() if isinstance(module, SVFitLinear) else module
    if not isinstance(inner, nn.Linear) and resolve_quantization_backend(inner) is None:
        raise ValueError(
            f"SVFit adapts Linear modules, but {name} is a {type(inner).__name__}; leave it out of "
            "target_modules."
        )


def layers(model: nn.Module) -> dict[str, SVFitLinear]:
    """Name -> layer of every projection of `model` that carries SVFit adapters, sorted by name."""
    found = ((n, m) for n, m in model.named_modules() if isinstance(m, SVFitLinear))
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


if _peft_type("SVFIT") not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="svfit", config_cls=SVFitConfig, model_cls=SVFitModel)
