"""The memory that code takes at its peak, from a run of it on torch's meta device: tensors there
have shapes and no values, so nothing is computed, and each storage is counted while it lives.

Attention is taken as PyTorch's fused kernels do it, which keep no table of all pairs of tokens. Not
counted is what kernels take for themselves, such as cuDNN's and oneDNN's work spaces, and what an
allocator cannot give out again.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


class Traced(TorchDispatchMode):
    """Counts the bytes of the meta tensors that are made within. now, most: bytes. held: tensors
    that are there before, which do not count, nor do views of them.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.most = 0
        self.held = [tensor.untyped_storage() for tensor in held]  # kept, so that ids stay theirs
        self.known = {id(storage) for storage in self.held}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation, and count the storages that it made."""
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self.count(tensor)
        return made

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage, until it is freed, unless it is known."""
        storage = tensor.untyped_storage()
        if id(storage) not in self.known:
            self.known.add(id(storage))
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._free, id(storage), storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """While tensors are meta: scaled dot-product attention keeps what a fused kernel keeps."""

    def stand_in(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return _Fused.apply(query, key, value)

    with mock.patch.object(F, "scaled_dot_product_attention", stand_in):
        yield


class _Fused(torch.autograd.Function):
    """query [.., n, d], key and value [.., m, d] -> [.., n, d]."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        context.save_for_backward(query, key, value, out, rows)
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def tensors_of(models: Iterable[nn.Module]) -> list[Tensor]:
    """The parameters and buffers of models."""
    return [t for model in models for t in (*model.parameters(), *model.buffers())]
