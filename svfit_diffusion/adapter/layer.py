"""SVFitLinear: a frozen Linear plus a trained change of its top singular values.

    y = base(x) + ((x V) * (strength * delta)) U^T        x: [..., in]   y: [..., out]

which is a Linear with the weight `W + U diag(strength * delta) V^T` (SVFit, arXiv 2409.05926).
That costs r * (in + out) products a row and, in training, autograd keeps r numbers a row. Where a
rank or the number of rows is so high that the sum of weights is cheaper, it is built for a moment,
in float32 only: a coarser one would lose small edits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from .basis import Basis
from .merging import Mergeable
from .placement import Bases, Deltas, compute_dtype, fetch, hooked
from .products import each, edited
from .strength import Strengths

BASE = "__base__"  # peft's name for "no adapter" in a mixed batch


class SVFitLinear(nn.Module, Mergeable, Strengths):
    """A Linear, quantised or not, with any number of SVFit adapters.

    `svfit_delta[adapter]`: [r], float32, the only trained values. `svfit_U[key]` [out, R] and
    `svfit_V[key]` [in, R]: bases, shared by the adapters that name the same key; they are no part
    of a state dict. An adapter of rank r uses their first r columns. `svfit_batch[adapter]`:
    [n, k], what stands in for its delta while each of n pictures has its own, of k values.
    """

    adapter_layer_names = ("svfit_delta",)
    other_param_names = ("svfit_rank", "svfit_scaling", "svfit_key", "svfit_ties", "svfit_batch")

    def __init__(self, base_layer: nn.Module, **quantization: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.svfit_delta = Deltas()
        self.svfit_U = Bases()
        self.svfit_V = Bases()
        self.svfit_rank: dict[str, int] = {}
        self.svfit_key: dict[str, str] = {}
        self.svfit_ties: dict[str, tuple[tuple[int, int, bool], ...]] = {}
        self.svfit_batch: dict[str, Tensor] = {}
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
    ) -> None:
        """Add an adapter whose deltas start at zero, or near it unless `init_weights`."""
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
        """Delete an adapter, and the basis that no other adapter uses; what is merged stays so."""
        self._settle(adapter_name)
        super().delete_adapter(adapter_name)
        for key in set(self.svfit_U) - set(self.svfit_key.values()):
            del self.svfit_U[key], self.svfit_V[key]

    def move_adapter(self, adapter: str, device: object) -> None:
        """Move an adapter's deltas, and its basis where no other adapter uses it, to a device."""
        delta = self.svfit_delta[adapter]
        moved = nn.Parameter(delta.detach().to(device), requires_grad=delta.requires_grad)
        self.svfit_delta[adapter] = moved
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
                if delta.ndim == 1 and weight.ndim == 2:
                    weight = torch.addmm(weight, U * delta, V.T)
                else:
                    weight = weight + (U * delta.unsqueeze(-2)) @ V.T
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
            U, V, widest = max(ours.values(), key=lambda found: found[0].shape[1])
            deltas = widest.new_zeros(len(x), U.shape[1])
            for row, name in enumerate(adapter_names):
                if name in ours:
                    delta = ours[name][2]
                    deltas[row, : delta.shape[-1]] = delta
            result = edited(result, x, U, V, deltas)
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
            cheaper = rows * size + 2 * rank * size < rows * rank * sides
        else:
            batch = [len(self.svfit_batch[a]) for a in adapters if a in self.svfit_batch]
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

    def _basis(self, adapter: str, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """U [out, r] and V [in, r] of an adapter; r: its rank, or a lower one."""
        key, rank = self.svfit_key[adapter], rank or self.svfit_rank[adapter]
        U, V = (fetch(self._modules[name], key) for name in ("svfit_U", "svfit_V"))
        return (U[:, :rank], V[:, :rank]) if U.shape[1] > rank else (U, V)

    def _parts(self, adapter: str) -> tuple[Tensor, Tensor, Tensor]:
        """U [out, r], V [in, r] and the scaled delta of an adapter, [r] or [n, r] of a batch."""
        delta, scale = self.svfit_batch.get(adapter), self.svfit_scaling[adapter]
        if delta is None:
            U, V = self._basis(adapter)
            delta = fetch(self._modules["svfit_delta"], adapter)
        else:
            U, V = self._basis(adapter, delta.shape[1])
            delta = (delta if len(delta) > 1 else delta[0]).to(U.device)
        # a kernel less, where each costs time
        return U, V, delta if scale == 1 else delta * scale

    def __repr__(self) -> str:
        return "svfit." + super().__repr__()
