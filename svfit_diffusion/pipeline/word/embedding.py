"""A text encoder's embedding with rows of learned words beside its table.

The module that holds the table looks the ids up in it as ever; a hook before its forward does so
first where it also holds rows, so that nothing of the encoder is replaced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .rows import PLACE, VECTORS, TriggerRows

TABLE = "token_embedding"  # attribute of the module that holds the table


def embed_with_rows(holder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Before the holder's forward: look the ids up in its table and the rows beside it."""
    rows = holder._modules.get(PLACE)
    ids = args[0] if args else kwargs.get("input_ids")
    if rows is None or ids is None or kwargs.get("inputs_embeds") is not None:
        return None
    if isinstance(rows, TriggerRows) and rows.holder is not holder:
        rows.bind(holder)
    ours = torch.zeros_like(ids, dtype=torch.bool)
    for word in rows.known():
        for token in word.ids:
            ours = ours | (ids == token)
    found = rows(ids, holder._modules[TABLE](ids.masked_fill(ours, 0)))
    return args, kwargs | {"inputs_embeds": found}


def holder_of(encoder: nn.Module) -> nn.Module:
    """The module of a text encoder that holds its table of embeddings."""
    for module in encoder.modules():
        if TABLE in module._modules:
            return module
    raise ValueError(
        f"{type(encoder).__name__} has no {TABLE}, so it cannot be taught a word; pass a CLIP text "
        "encoder."
    )


def rows_of(encoder: nn.Module) -> TriggerRows | None:
    """What a text encoder has learned of words, be it for its input or for its output; None where
    it has been taught none, or they were unloaded.
    """
    if isinstance(vectors := encoder._modules.get(VECTORS), TriggerRows):
        return vectors
    if not hasattr(type(encoder), "get_input_embeddings"):
        return None  # a denoiser, of many modules
    for module in encoder.modules():
        if TABLE in module._modules:
            found = module._modules.get(PLACE)
            return found if isinstance(found, TriggerRows) else None
    return None


def install_rows(encoder: nn.Module) -> TriggerRows:
    """The rows of a text encoder, put in if there are none yet."""
    if (rows := rows_of(encoder)) is not None:
        return rows
    holder = holder_of(encoder)
    rows = TriggerRows(holder, holder._modules.get(PLACE))
    holder.add_module(PLACE, rows)
    if embed_with_rows not in holder._forward_pre_hooks.values():
        holder.register_forward_pre_hook(embed_with_rows, with_kwargs=True)
    return rows


def uninstall_rows(encoder: nn.Module) -> None:
    """Take the rows out again, where none is left."""
    holder = holder_of(encoder)
    rows = holder._modules.get(PLACE)
    if rows is None or rows.known():
        return
    delattr(holder, PLACE)
    for key, hook in list(holder._forward_pre_hooks.items()):
        if hook is embed_with_rows:
            del holder._forward_pre_hooks[key]
            holder._forward_pre_hooks_with_kwargs.pop(key, None)
