"""SVFitLinear: a frozen Linear plus a trained change of its top singular values.

    y = base(x) + ((x V) * (strength * delta)) U^T        x: [..., in]   y: [..., out]

which is a Linear with the weight `W + U diag(strength * delta) V^T` (SVFit, arXiv 2409.05926).
That costs r * (in + out) products a row and, in training, autograd keeps r numbers a row. Where a
rank or the number of rows is so high that the sum of weights is cheaper, it is built for a moment,
in float32 only: a coarser one would lose small edits.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from .basis import Basis


class SVFitLinear(nn.Module, BaseTunerLayer):
    """A Linear, quantised or not, with any number of SVFit adapters.

    `svfit_delta[adapter]`: [r], float32, the only trained values. `svfit_U[key]` [out, R] and
    `svfit_V[key]` [in, R]: bases, shared by the adapters that name the same key; they are no part
    of a state dict. An adapter of rank r uses their first r columns.
    """

    adapter_layer_names = ("svfit_delta",)
    other_param_names = ("svfit_rank", "svfit_scaling", "svfit_key", "svfit_ties")

    def __init__(self, base_layer: nn.Module, **quantization: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.svfit_delta = nn.ParameterDict()
        self.svfit_U = BufferDict({}, persistent=False)
        self.svfit_V = BufferDict({}, persistent=False)
        self.svfit_rank: dict[str, int] = {}
        self.svfit_scaling: dict[str, float] = {}
        self.svfit_key: dict[str, str] = {}
        self.svfit_ties: dict[str, tuple[tuple[int, int, bool], ...]] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.quantization_backend = resolve_quantization_backend(base_layer, **quantization)

    def update_layer(
        self,
        adapter_name: str,
        basis: Basis,
        key: str = "published",
        init_weights: bool = True,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter whose deltas start at zero, or near it unless `init_weights`."""
        if adapter_name not in self.svfit_delta and hasattr(self.svfit_delta, adapter_name):
            raise ValueError(f"{adapter_name!r} is a word of PyTorch's own; choose another name.")
        rank, base = basis.s.numel(), self.get_base_layer()
        bias = getattr(base, "bias", None)
        weight = base.weight if self.quantization_backend is None or bias is None else bias
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        if key not in self.svfit_U or self.svfit_U[key].shape[1] < rank:
            self.svfit_U[key] = basis.U.to(weight.device, dtype)
            self.svfit_V[key] = basis.V.to(weight.device, dtype)
        self.svfit_rank[adapter_name] = rank
        self.svfit_scaling[adapter_name] = 1.0
        self.svfit_key[adapter_name] = key
        self.svfit_ties[adapter_name] = basis.ties()
        delta = torch.zeros(rank) if init_weights else 0.1 * basis.s.mean() * torch.randn(rank)
        self.svfit_delta[adapter_name] = nn.Parameter(delta.to(weight.device, torch.float32))
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter, and the basis that no other adapter uses."""
        super().delete_adapter(adapter_name)
        for key in set(self.svfit_U) - set(self.svfit_key.values()):
            del self.svfit_U[key], self.svfit_V[key]

    @torch.no_grad()
    def tie(self, adapter: str) -> None:
        """Give directions that no basis can tell apart their mean delta, or 0 (svd.py)."""
        for start, stop, kept in self.svfit_ties.get(adapter, ()):
            group = self.svfit_delta[adapter][start:stop]
            group.copy_(group.mean() * kept)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set the strength of an adapter: 0 is the base, 1 as trained."""
        if adapter in self.svfit_scaling:
            self.svfit_scaling[adapter] = scale

    def scale_layer(self, scale: float) -> None:
        """Multiply the strength of the active adapters by `scale`."""
        for adapter in self._present(self.active_adapters):
            self.svfit_scaling[adapter] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the strength of the active adapters by `scale`; None puts it back to 1."""
        for adapter in self._present(self.active_adapters):
            self.svfit_scaling[adapter] = self.svfit_scaling[adapter] / scale if scale else 1.0

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The edit `U diag(strength * delta) V^T`: [out, in], float32."""
        U, V, delta = (t.float() for t in self._parts(adapter))
        return (U * delta) @ V.T

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """ValueError where merging the named adapters, or all active ones, gives no usable weight.

        That is where a sum is not finite, or where the weight is quantised for good.
        """
        weight = None
        for adapter in self._present(check_adapters_to_merge(self, adapter_names) or ()):
            self._check_quantization()
            weight = self._shifted(adapter, 1, weight)
            if not torch.isfinite(weight).all():
                raise ValueError(
                    f"merging {adapter!r} would put NaN or infinity into a weight; the file is "
                    "broken or its strength too large. Nothing was merged."
                )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the edits of the named adapters, or all active ones, to the base weight.

        safe_merge: raise ValueError, with the weight untouched, if the sum is not finite.
        """
        if safe_merge:
            self.check_merge(adapter_names)
        for adapter in self._present(check_adapters_to_merge(self, adapter_names) or ()):
            self._check_quantization()
            self.set_base_weight(self._shifted(adapter, 1))
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take the merged edits out of the base weight again."""
        if not self.merged:
            warnings.warn("no adapter is merged, so there is nothing to unmerge.", stacklevel=2)
        while self.merged_adapters:
            self.set_base_weight(self._shifted(self.merged_adapters.pop(), -1))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x [..., in] -> [..., out], in the dtype that the base layer gives."""
        if self._disable_adapters and self.merged_adapters:
            self.unmerge()
        adapters = self._present(self.active_adapters)
        base = self.base_layer
        if self._disable_adapters or self.merged_adapters or not adapters:
            return base(x, *args, **kwargs)
        if self._dense_is_cheaper(x, adapters):
            weight = base.weight
            for adapter in adapters:
                U, V, delta = self._parts(adapter)
                weight = torch.addmm(weight, U * delta, V.T)
            return F.linear(x, weight, base.bias)
        result = base(x, *args, **kwargs)
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        for adapter in adapters:
            U, V, delta = self._parts(adapter)
            inner = x.to(V.dtype) @ V
            inner = inner * delta.to(inner.dtype)
            if inner.dtype == result.dtype:
                rows = torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), U.T)
                result = rows.view_as(result)
            else:
                result = result + (inner @ U.T).to(result.dtype)
        return result

    def _dense_is_cheaper(self, x: Tensor, adapters: list[str]) -> bool:
        """Whether `x (W + edits)^T` takes fewer products than `x W^T` and the edits by themselves.

        In training the weight's gradient is a product of its own, and each edit's three.
        """
        rows, size = x.numel() // self.in_features, self.in_features * self.out_features
        sides = self.in_features + self.out_features
        if torch.is_grad_enabled() and any(self.svfit_delta[a].requires_grad for a in adapters):
            rank = sum(map(self.svfit_rank.get, adapters))
            cheaper = rows * size + 3 * rank * size < 2 * rows * rank * sides
        else:
            cheaper = size < rows * sides
        base = self.base_layer
        return (
            cheaper
            and type(base) is nn.Linear
            and self.quantization_backend is None
            and base.weight.dtype == x.dtype == torch.float32
            # else the weight may lie elsewhere, or be rounded
            and not (hasattr(base, "_hf_hook") or torch.is_autocast_enabled(x.device.type))
        )

    def _present(self, adapters: list[str] | tuple[()]) -> list[str]:
        return [name for name in adapters if name in self.svfit_delta]

    def _parts(self, adapter: str) -> tuple[Tensor, Tensor, Tensor]:
        """U [out, r], V [in, r] and the scaled delta [r] of an adapter."""
        key, rank = self.svfit_key[adapter], self.svfit_rank[adapter]
        U, V = self.svfit_U[key], self.svfit_V[key]
        if U.shape[1] > rank:
            U, V = U[:, :rank], V[:, :rank]
        delta, scale = self.svfit_delta[adapter], self.svfit_scaling[adapter]
        return U, V, delta if scale == 1 else delta * scale  # a kernel less, where each costs time

    def _shifted(self, adapter: str, sign: int, weight: Tensor | None = None) -> Tensor:
        """A weight [out, in], the base's if none is given, with an edit added or taken away."""
        weight = self.get_base_weight() if weight is None else weight
        return (weight.float() + sign * self.get_delta_weight(adapter)).to(weight.dtype)

    def _check_quantization(self) -> None:
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise ValueError(
                f"a {backend.backend_name} weight cannot take a merged edit; keep the concept "
                "attached, or load the base without quantisation."
            )

    def __repr__(self) -> str:
        return "svfit." + super().__repr__()
