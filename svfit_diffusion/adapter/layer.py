"""SVFitLinear: a frozen Linear plus a trained change of its top singular values.

    y = base(x) + ((x V) * (strength * delta)) U^T        x: [..., in]   y: [..., out]

which is a Linear with the weight `W + U diag(strength * delta) V^T` (SVFit, arXiv 2409.05926).
That costs r * (in + out) products a row and, in training, autograd keeps r numbers a row. Where a
rank or the number of rows is so high that the sum of weights is cheaper, it is built for a moment,
in float32 only: a coarser one would lose small edits. Where layers have a common vector, V diag(
delta) + M stands in the place of V diag(delta) (common.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from .basis import Basis
from .common import Places
from .edits import Batch, Edits
from .merging import Mergeable
from .placement import Bases, Deltas, compute_dtype, hooked
from .products import each, edited
from .strength import Strengths

BASE = "__base__"  # peft's name for "no adapter" in a mixed batch


class SVFitLinear(nn.Module, Edits, Mergeable, Strengths):
    """A Linear, quantised or not, with any number of SVFit adapters.

    `svfit_delta[adapter]`: [r], float32, the only trained values. `svfit_U[key]` [out, R] and
    `svfit_V[key]` [in, R]: bases, shared by the adapters that name the same key; they are no part
    of a state dict. An adapter of rank r uses their first r columns. `svfit_common[adapter]`: [d],
    the vector that layers have in common, in the one of them that is every layer's
    `svfit_owner[adapter]`. `svfit_batch[adapter]`: what stands in for both while each of n pictures
    has its own.
    """

    adapter_layer_names = ("svfit_delta", "svfit_common")
    other_param_names = (
        *("svfit_rank", "svfit_scaling", "svfit_key", "svfit_ties", "svfit_batch", "svfit_owner"),
    )

    def __init__(self, base_layer: nn.Module, **quantization: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.svfit_delta = Deltas()
        self.svfit_common = Deltas()
        self.svfit_U = Bases()
        self.svfit_V = Bases()
        self.svfit_places = Bases()
        self.svfit_rank: dict[str, int] = {}
        self.svfit_key: dict[str, str] = {}
        self.svfit_ties: dict[str, tuple[tuple[int, int, bool], ...]] = {}
        self.svfit_batch: dict[str, Batch] = {}
        self.svfit_owner: dict[str, SVFitLinear] = {}
        self._numbers: dict[str, Places] = {}
        self.start_strengths()
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.quantization_backend = resolve_quantization_backend(base_layer, **quantization)

    def update_layer(
        self,
        adapter_name: str,
        basis: Basis,
        key: str = "published",
        init_weights: bool = True,
        inference_mode: bool = False,
        common: int = 0,
        name: str = "",
        owner: SVFitLinear | None = None,
    ) -> None:
        """Add an adapter whose deltas start at zero, or near it unless `init_weights`.

        common: size of the common vector, 0 for none; owner: the layer that holds it, None for this
        one; name: of the projection in its model.
        """
        if adapter_name not in self.svfit_delta and hasattr(self.svfit_delta, adapter_name):
            raise ValueError(
                f"{adapter_name!r} is an attribute of torch.nn.ParameterDict; choose another name."
            )
        rank, base = basis.s.numel(), self.get_base_layer()
        bias = getattr(base, "bias", None)
        weight = base.weight if self.quantization_backend is None or bias is None else bias
        exact = self.quantization_backend is None
        dtype = compute_dtype(base) if exact else weight.dtype
        dtype = dtype if dtype.is_floating_point else torch.float32
        renewed = False
        if key not in self.svfit_U or self.svfit_U[key].shape[1] < rank:
            self.svfit_U[key] = basis.U.to(weight.device, dtype)
            self.svfit_V[key] = basis.V.to(weight.device, dtype)
            renewed = key in self._numbers
        known = len(self._numbers[key].columns) if key in self._numbers else 0
        if renewed or (common and known < rank):
            self.know_places(key, name, basis)
        self.svfit_rank[adapter_name] = rank
        self.svfit_scaling[adapter_name] = 1.0
        self.svfit_key[adapter_name] = key
        self.svfit_ties[adapter_name] = basis.ties()
        size = 0.0 if init_weights else 0.1 * float(basis.s.mean())
        self.svfit_delta[adapter_name] = _start(rank, size, weight.device)
        if common:
            self.svfit_owner[adapter_name] = owner or self
            if owner is None:
                self.svfit_common[adapter_name] = _start(common, size, weight.device)
        for adapter, held in self.svfit_owner.items():  # a wider basis has places of its own
            self.places(self.svfit_key[adapter], held.svfit_common[adapter].numel())
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter, and the basis that no other adapter uses; what is merged stays so."""
        self._settle(adapter_name)
        super().delete_adapter(adapter_name)
        for key in set(self.svfit_U) - set(self.svfit_key.values()):
            del self.svfit_U[key], self.svfit_V[key]
            self.forget_places(key)

    def move_adapter(self, adapter: str, device: object) -> None:
        """Move an adapter's deltas, and its basis where no other adapter uses it, to a device."""
        for held in (self.svfit_delta, self.svfit_common):
            if adapter in held:
                value = held[adapter]
                moved = nn.Parameter(value.detach().to(device), requires_grad=value.requires_grad)
                held[adapter] = moved
        key = self.svfit_key[adapter]
        if list(self.svfit_key.values()).count(key) == 1:
            self.svfit_U[key], self.svfit_V[key] = (
                held[key].to(device) for held in (self.svfit_U, self.svfit_V)
            )

    @torch.no_grad()
    def tie(self, adapter: str) -> None:
        """Give directions that no basis can distinguish their mean delta, or 0 (basis.py)."""
        for start, stop, kept in self.svfit_ties.get(adapter, ()):
            group = self.svfit_delta[adapter][start:stop]
            group.copy_(group.mean() * kept)

    def forward(
        self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """x [..., in] -> [..., out], in the dtype that the base layer gives.

        adapter_names: of a mixed batch, the adapter of each row, or "__base__".
        """
        if adapter_names is not None:
            return self._mixed(x, adapter_names, *args, **kwargs)
        if self._disable_adapters and self.merged_adapters:
            self.unmerge()
        base, adapters = self._modules["base_layer"], self._acting()
        if not adapters:
            return base(x, *args, **kwargs)
        if self._dense_is_cheaper(x, adapters):
            weight = base.weight
            for adapter in adapters:
                U, V, delta = self._parts(adapter)
                reads = V if delta is None else V * delta.unsqueeze(-2)
                if reads.ndim == 2 and weight.ndim == 2:
                    weight = torch.addmm(weight, U, reads.T)
                else:
                    weight = weight + U @ reads.mT
            return F.linear(x, weight, base.bias) if weight.ndim == 2 else each(x, weight, base)
        result = base(x, *args, **kwargs)
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        for adapter in adapters:
            result = edited(result, x, *self._parts(adapter))
        return result

    def _acting(self) -> list[str]:
        """The adapters that change the output now."""
        active, held = self._active_adapter, self.svfit_scaling
        if self._disable_adapters:
            return []
        names = (active,) if isinstance(active, str) else active
        return [a for a in names if held.get(a) and a not in self.merged_adapters]

    def _mixed(self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """A batch x [n, ..., in] in which each row has an adapter of its own: for each basis one
        edit, of a delta for each row.
        """
        if len(adapter_names) != len(x):
            raise ValueError(
                f"adapter_names names {len(adapter_names)} adapters for a batch of {len(x)}; pass "
                f"one for each row, {BASE!r} for none."
            )
        if self.merged_adapters:
            raise ValueError("adapters are merged, so rows cannot differ; unmerge them first.")
        result = self.base_layer(x, *args, **kwargs)
        if self._disable_adapters:
            return result
        parts = {name: self._parts(name) for name in self._present(sorted(set(adapter_names)))}
        for key in sorted({self.svfit_key[name] for name in parts}):
            ours = {n: found for n, found in parts.items() if self.svfit_key[n] == key}
            U, V, _ = max(ours.values(), key=lambda found: found[0].shape[1])
            alike = all(delta is not None for *_, delta in ours.values())
            shape = (len(x), U.shape[1]) if alike else (len(x), *V.shape[-2:])
            each = torch.zeros(shape, device=U.device)
            for row, name in enumerate(adapter_names):
                if name in ours:
                    _, reads, delta = ours[name]
                    own = delta if alike else reads if delta is None else reads * delta
                    each[row, ..., : own.shape[-1]] = own
            if alike:
                result = edited(result, x, U, V, each)
            else:
                result = edited(result, x, U, each.to(U.dtype), None)
        return result

    def _dense_is_cheaper(self, x: Tensor, adapters: list[str]) -> bool:
        """Whether `x (W + edits)^T` takes fewer products than `x W^T` and the edits by themselves.

        In training each edit is a product of the sum of weights and one of its gradient, which is
        one more, of the rows. By themselves an edit's rows are multiplied by V, and by U twice; by
        V again where their own gradient is wanted.
        """
        rows, size = x.numel() // self.in_features, self.in_features * self.out_features
        sides = self.in_features + self.out_features
        if torch.is_grad_enabled() and any(self.svfit_delta[a].requires_grad for a in adapters):
            rank = sum(map(self.svfit_rank.get, adapters))
            sides += self.out_features + (self.in_features if x.requires_grad else 0)
            if any(a in self.svfit_owner for a in adapters):  # M's gradient
                sides += self.in_features
            cheaper = rows * size + 2 * rank * size < rows * rank * sides
        else:
            batch = [len(self.svfit_batch[a].delta) for a in adapters if a in self.svfit_batch]
            pictures = max(batch, default=1)  # each with a sum of its own
            cheaper = size * pictures < rows * sides and (pictures == 1 or x.ndim == 3)
        base = self._modules["base_layer"]
        return (
            cheaper
            and type(base) is nn.Linear
            and self.quantization_backend is None
            and base.weight.dtype == x.dtype == torch.float32
            # else the weight may lie elsewhere, or be rounded
            and not (hooked(base) or torch.is_autocast_enabled(x.device.type))
        )

    def __repr__(self) -> str:
        return "svfit." + super().__repr__()


def _start(count: int, size: float, device: torch.device) -> nn.Parameter:
    """`count` trainable numbers: zeros, or at random of a size."""
    return nn.Parameter((size * torch.randn(count) if size else torch.zeros(count)).to(device))
