"""Saving a text encoder and a tokenizer with a fused concept: its word becomes one of theirs.

A word of one token that the base reads as one takes the place of that token's embedding. Another
is added to the tokenizer as it is written, followed by `word_1`, `word_2` ... where it has several
rows, which diffusers puts behind it by itself.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from .embedding import TABLE
from .instance_class import take_out
from .rows import PLACE, FusedRows, Word
from .tokenizer import ROWS, HearsWords, fused_rows, plain_ids

log = logging.getLogger(__name__)


class SavesWords(HearsWords):
    """The methods of a tokenizer that has been taught words, saving among them."""

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the base's tokenizer, with the words of fused concepts as tokens of its own."""
        plan, size = _plan(self), len(self)
        if not plan:
            return super().save_pretrained(*args, **kwargs)
        plain = copy.deepcopy(self)
        plain.__dict__.pop(ROWS)
        take_out(plain, SavesWords)
        for word, ids in plan.items():
            if ids[0] >= size:
                more = [f"{word}_{i}" for i in range(1, len(ids))]
                plain.add_tokens([_whole_word(text) for text in (word, *more)])
        log.warning("the tokenizer is saved with the learned words %s.", ", ".join(plan))
        return plain.save_pretrained(*args, **kwargs)


def _whole_word(text: str) -> AddedToken:
    return AddedToken(text, single_word=True, normalized=True, special=False)


def _plan(tokenizer: Any) -> dict[str, list[int]]:
    """Fused word -> the ids that its rows take in a saved base."""
    plan, free = {}, len(tokenizer)
    held = (word for rows in fused_rows(tokenizer) for word in rows.known())
    for word in dict.fromkeys(held):
        plain = plain_ids(tokenizer, word.word)
        if len(word.ids) == len(plain) == 1:
            plan[word.word] = plain
        else:
            plan[word.word] = list(range(free, free + len(word.ids)))
            free += len(word.ids)
    return plan


@contextlib.contextmanager
def with_words(model: nn.Module) -> Iterator[None]:
    """Fused words in the model's table of embeddings, and the rows beside it out of the way."""
    holder = next((module for module in model.modules() if PLACE in module._modules), None)
    if holder is None:
        yield
        return
    rows, table = holder._modules[PLACE], holder._modules[TABLE]
    size, end = model.config.vocab_size, model.config.eos_token_id
    fused = rows if isinstance(rows, FusedRows) else rows.base_layer
    tokenizer = _reader(fused) if fused.fused else None
    plan = _plan(tokenizer) if fused.fused else {}
    try:
        del holder._modules[PLACE]
        if plan:
            holder._modules[TABLE] = _with_rows(table, fused, plan)
            model.config.vocab_size = len(holder._modules[TABLE].weight)
            model.config.eos_token_id = tokenizer.eos_token_id
        yield
    finally:
        holder._modules[TABLE], holder._modules[PLACE] = table, rows
        model.config.vocab_size, model.config.eos_token_id = size, end


def _reader(rows: FusedRows) -> Any:
    """The tokenizer that reads for these rows."""
    reader = rows.__dict__.get("_reader")
    tokenizer = reader() if reader else None
    if tokenizer is None:
        raise ValueError(
            "the learned word of a fused concept can only be saved with its tokenizer; tokenize a "
            "prompt once with the pipeline's, or use `svfit export --fuse`."
        )
    return tokenizer


def _with_rows(table: nn.Module, fused: FusedRows, plan: dict[str, list[int]]) -> nn.Embedding:
    """A copy of a table [vocabulary, width] with the fused words' rows."""
    weight = table.weight.detach()
    ids = [i for word in plan.values() for i in word]
    more = weight.new_zeros(max(0, max(ids) + 1 - len(weight)), weight.shape[1])
    weight = torch.cat([weight, more])
    for word, block in _words(fused):
        weight[plan[word.word]] = block.to(weight)
    return nn.Embedding(*weight.shape, _weight=weight)


def _words(fused: FusedRows) -> Iterator[tuple[Word, Tensor]]:
    """The fused words, each with its rows [tokens, width] at the strength they were fused at."""
    for adapter, held in fused.fused.items():
        first = 0
        for word in held.words:
            places = range(first, first + len(word.ids))
            strength = fused.strengths[adapter] * word.share
            yield word, torch.stack([held.row(i, strength) for i in places]).detach()
            first += len(word.ids)
