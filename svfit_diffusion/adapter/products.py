"""The products of a layer with an edit: by the edit itself, or by the sum of weights.

    y + ((x V) * delta) U^T        or        x (W + U diag(delta) V^T)^T

delta is one for all rows, or one for each picture of a batch. Or it is None, and V is already what
the edit reads of the input, for all rows or for each picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def edited(result: Tensor, x: Tensor, U: Tensor, V: Tensor, delta: Tensor | None) -> Tensor:
    """result [..., out] with what an edit adds to it for x [..., in].

    U [out, r], V [in, r]; delta [r], or [n, r] of the n pictures of a batch, whose rows x [k * n,
    ..., in] holds one after the other k times, as classifier-free guidance does. Or V [in, r], or
    [n, in, r], and no delta.
    """
    dtypes = {x.dtype, V.dtype, result.dtype, V.dtype if delta is None else delta.dtype}
    if len(dtypes) == 1 and V.ndim == 2 and (delta is None or delta.ndim == 1):  # fewest calls
        inner, rows = x.reshape(-1, x.shape[-1]) @ V, result.reshape(-1, result.shape[-1])
        inner = inner if delta is None else inner * delta
        if torch.is_grad_enabled():
            rows = torch.addmm(rows, inner, U.T)
        else:
            rows.addmm_(inner, U.T)  # the base layer has just made it
        return rows.view(result.shape)
    inner = _read(x.to(V.dtype), V)
    if delta is not None:
        delta = _of_rows(delta, inner) if delta.ndim > 1 else delta
        inner = inner * delta.to(inner.dtype)
    if inner.dtype == result.dtype:
        rows = torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), U.T)
        return rows.view_as(result)
    return result + (inner @ U.T).to(result.dtype)


def _read(x: Tensor, V: Tensor) -> Tensor:
    """x [k * n, ..., in] times V [in, r], or times that of its picture, V [n, in, r]."""
    if V.ndim == 2:
        return x @ V
    rows = x.reshape(_rounds(len(x), len(V)), len(V), -1, x.shape[-1])
    return (rows @ V).view(*x.shape[:-1], V.shape[-1])


def _of_rows(delta: Tensor, inner: Tensor) -> Tensor:
    """The deltas [n, r] of a batch's pictures -> those of the rows of inner [k * n, ..., r]."""
    count = _rounds(len(inner), len(delta))
    return delta.repeat(count, 1).view(len(inner), *(1,) * (inner.ndim - 2), delta.shape[-1])


def each(x: Tensor, weight: Tensor, base: nn.Linear) -> Tensor:
    """x [k * n, rows, in] by the weights [n, out, in] of n pictures, as `edited` orders them."""
    count, pictures = _rounds(len(x), len(weight)), len(weight)
    parts = [torch.bmm(part, weight.mT) for part in x.split(pictures)]
    result = torch.cat(parts) if count > 1 else parts[0]
    return result if base.bias is None else result.add_(base.bias)


def _rounds(rows: int, pictures: int) -> int:
    """How many times the pictures of a batch are in its rows; ValueError where they are not."""
    if rows % pictures:
        raise ValueError(
            f"a layer was called with {rows} rows, but concepts were given for {pictures} "
            "pictures; give each picture its concepts, none of them as {}."
        )
    return rows // pictures
