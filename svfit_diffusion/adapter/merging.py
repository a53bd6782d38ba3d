"""Merging edits into a weight, and taking them out again to the bit.

    merged = round(W + sum U (V diag(strength * delta) + strength * M)^T)

The weight that was there is kept (in main memory, where the model is on an accelerator), since
rounding cannot be undone by subtraction. What others added to the weight in between, such as a
fused LoRA, stays in it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor

from .common import arrange
from .loaded_weights import is_gguf


class Edit(NamedTuple):
    """The values of an adapter: delta [r], the common vector [d] if it has one, strength."""

    delta: Tensor
    common: Tensor | None
    strength: float


@dataclass
class Merged:
    """What is in a weight: the weight [out, in] before, and what each adapter added to it.

    weight: None where the weight is quantised.
    """

    weight: Tensor | None
    edits: dict[str, Edit] = field(default_factory=dict)


class Mergeable:
    """The merging of SVFitLinear."""

    _merged: Merged | None = None

    @property
    def kept_weight(self) -> Tensor | None:
        """The weight [out, in] as it was before anything of this layer was merged into it."""
        return self._merged.weight if self._merged else None

    def merged_strength(self, adapter: str) -> float:
        """The strength at which an adapter was merged."""
        return self._merged.edits[adapter].strength

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The edit, `U diag(strength * delta) V^T` without a common vector: [out, in], float32."""
        return self._dense(adapter, self._edit_now(adapter))

    def _edit_now(self, adapter: str) -> Edit:
        """The values as they are, not to be kept."""
        common = next((common.detach() for common, _ in self._own_common(adapter)), None)
        return Edit(self.svfit_delta[adapter].detach(), common, self.svfit_scaling[adapter])

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """ValueError where merging the named adapters, or all active ones, gives no usable weight.

        That is where a sum is not finite, or where the weight is quantised for good.
        """
        weight = None
        for adapter in self._present(check_adapters_to_merge(self, adapter_names) or ()):
            self._check_one_edit(adapter)
            self._check_quantization()
            weight = self.get_base_weight() if weight is None else weight
            weight = _add(weight, self.get_delta_weight(adapter))
            if not torch.isfinite(weight.float()).all():
                raise ValueError(
                    f"merging {adapter!r} would put NaN or infinity into a weight; the file is "
                    "broken or its strength too large. Nothing was merged."
                )

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the edits of the named adapters, or all active ones, to the base weight.

        safe_merge: raise ValueError, with the weight untouched, if the sum is not finite.
        """
        if safe_merge:
            self.check_merge(adapter_names)
        names = self._present(check_adapters_to_merge(self, adapter_names) or ())
        if not names:
            return
        for adapter in names:
            self._check_one_edit(adapter)
        self._check_quantization()
        before = self.get_base_weight()
        if self._merged is None:
            exact = self.quantization_backend is None
            self._merged, untouched = Merged(before.to("cpu") if exact else None), exact
        else:
            untouched = self._is_ours(before)
        for adapter in names:
            delta, common, strength = self._edit_now(adapter)
            kept = None if common is None else common.clone()
            self._merged.edits[adapter] = Edit(delta.clone(), kept, strength)
            self.merged_adapters.append(adapter)
        if untouched:
            self.set_base_weight(self._with_edits(before))
        else:
            for adapter in names:
                before = _add(before, self.get_delta_weight(adapter))
            self.set_base_weight(before)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the merged edits out of the base weight again."""
        if not self.merged:
            warnings.warn("no adapter is merged, so there is nothing to unmerge.", stacklevel=2)
            return
        now, kept = self.get_base_weight(), self._merged.weight
        if kept is None:
            for adapter in reversed(self._merged.edits):
                now = _add(now, -self._dense(adapter, self._merged.edits[adapter]))
            self.set_base_weight(now)
        elif self._is_ours(now):
            self.set_base_weight(kept.to(now.device, now.dtype))
        else:
            others = now.float() - self._with_edits(now).float()
            self.set_base_weight((kept.to(now.device).float() + others).to(now.dtype))
        self._merged = None
        self.merged_adapters.clear()

    def _settle(self, adapter: str) -> None:
        """Leave a merged edit in the weight for good: its adapter is about to be deleted."""
        if self._merged is None or adapter not in self._merged.edits:
            return
        edit = self._merged.edits.pop(adapter)
        self.merged_adapters.remove(adapter)
        if not self._merged.edits:
            self._merged = None
        elif self._merged.weight is not None:
            now = self.get_base_weight()
            self._merged.edits[adapter] = edit
            untouched = self._is_ours(now)
            del self._merged.edits[adapter]
            added = self._dense(adapter, edit).to(self._merged.weight.device)
            self._merged.weight = _add(self._merged.weight, added)
            if untouched:  # so that what is left can be taken out to the bit
                self.set_base_weight(self._with_edits(now))

    def _is_ours(self, now: Tensor) -> bool:
        """Whether the weight is exactly what merging made of the one that is kept."""
        if self._merged.weight is None:
            return False
        return _equal(now, self._with_edits(now))

    def _with_edits(self, like: Tensor) -> Tensor:
        """The kept weight with all merged edits, rounded as when they were merged, on the device
        and in the precision of a tensor.
        """
        weight = self._merged.weight.to(like.device)
        if not self._merged.edits:
            return weight.to(like.dtype)
        total = weight.float()
        for adapter, edit in self._merged.edits.items():
            total = total + self._dense(adapter, edit).to(like.device)
        return total.to(weight.dtype).to(like.dtype)

    def _dense(self, adapter: str, edit: Edit) -> Tensor:
        """`U (V diag(strength * delta) + strength * M)^T` in its basis: [out, in], float32."""
        U, V = (matrix.float() for matrix in self._basis(adapter))
        reads = V * edit.delta.to(U.device).float()
        if edit.common is not None:
            places = self.places(self.svfit_key[adapter], edit.common.numel())
            common, ties = edit.common.to(U.device).float(), self.svfit_ties[adapter]
            reads = reads + arrange(common, places, U.shape[1], ties)
        return (edit.strength * U) @ reads.T

    def _check_one_edit(self, adapter: str) -> None:
        if adapter in self.svfit_batch:
            raise ValueError(
                f"the concepts of the pool {adapter!r} change with each picture, so they cannot be "
                "merged into the weights; load_concept the one to merge, and close the pool."
            )

    def _check_quantization(self) -> None:
        backend, gguf = self.quantization_backend, is_gguf(self.get_base_layer())
        if gguf or (backend is not None and not backend.supports_merge):
            kind = "GGUF" if gguf else backend.backend_name
            raise ValueError(
                f"a {kind} weight cannot take a merged edit; keep the concept attached, or load "
                "the base without quantisation."
            )


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to the bit; PyTorch compares no numbers of eight bits."""
    if a.dtype.itemsize == 1:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    return torch.equal(a, b)


def _add(weight: Tensor, edit: Tensor) -> Tensor:
    """Their sum [out, in], in the weight's precision."""
    return (weight.float() + edit).to(weight.dtype)
