"""The rows of learned words in a text encoder, beside its table of embeddings.

    row(strength) = class word + strength * (row - class word)

At strength 0 the word reads as its class word, to which small strengths tend; a concept that is not
in use leaves the word as it is typed.

The table stays as it is. Each row has a token id far beyond any vocabulary, which the encoder's
tokenizer gives for the word (tokenizer.py), so that no id changes when other words are added to
the table or removed. For peft and diffusers the rows are an adapter layer like others.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from ...adapter import Strengths
from .words import token_names

FIRST_ID = 1_000_000  # of learned tokens: no vocabulary is as large
VECTORS = "svfit_vectors"  # attribute of a text encoder: vectors for its output (outputs.py)
PLACE = "svfit_trigger"  # attribute of the module that holds the table of embeddings


@dataclass(frozen=True)
class Word:
    """A learned word: the ids of its tokens, its own share of its concept's strength, and the class
    word that its rows start at. label: what its tokens are named by, if not by the word, which in a
    batch can stand for one thing in one text and for another in the next.
    """

    word: str
    ids: tuple[int, ...]
    share: float = 1.0
    class_word: str = ""
    label: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its tokens."""
        return token_names(self.label or self.word, len(self.ids))


class LearnedRows(nn.ParameterList):
    """The rows [width] of a concept's words, float32, and where each starts: `start` [rows, width],
    the class word's embedding. texts: of a batch, the words that each of its texts hears; None
    where all texts hear all.
    """

    __call__ = nn.Module.__call__  # a ParameterList refuses to be called
    texts: tuple[tuple[Word, ...], ...] | None = None

    def __init__(self, words: tuple[Word, ...], rows: Tensor, start: Tensor, train: bool) -> None:
        super().__init__(nn.Parameter(row.clone(), requires_grad=train) for row in rows)
        self.register_buffer("start", start.clone(), persistent=False)
        self.words = words

    def forward(self, ids: Tensor, found: Tensor, strength: float) -> Tensor:
        """Embeddings found [..., length, width], with the rows at the ids [..., length] of them."""
        tokens = ((token, word.share) for word in self.words for token in word.ids)
        for i, (token, share) in enumerate(tokens):
            row = self.row(i, strength * share)
            found = torch.where((ids == token).unsqueeze(-1), row.to(found), found)
        return found

    def heard(self, text: int | None) -> tuple[Word, ...]:
        """The words that text number `text` of a batch hears; None: a text that is of no batch."""
        if self.texts is None:
            return self.words
        if len(self.texts) == 1:
            return self.texts[0]
        return () if text is None else self.texts[text]

    def row(self, i: int, strength: float) -> Tensor:
        """Row number i [width], at a strength."""
        if strength == 1:
            return self[i]
        return self.start[i] + strength * (self[i] - self.start[i])


class FusedRows(nn.Module):
    """Rows that stay when adapters are unloaded: those of fused concepts, at fixed strengths."""

    weight = None  # what peft takes over from any layer that it unwraps

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.ModuleDict()
        self.strengths: dict[str, float] = {}

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_reader"}

    def read_by(self, tokenizer: Any) -> None:
        """Remember the tokenizer that reads for them."""
        self.__dict__["_reader"] = weakref.ref(tokenizer)

    def known(self) -> tuple[Word, ...]:
        """Their words."""
        return tuple(word for rows in self.fused.values() for word in rows.words)

    def forward(self, ids: Tensor, found: Tensor) -> Tensor:
        """Embeddings found [..., length, width], with the fused rows at the ids of them."""
        for adapter, rows in self.fused.items():
            found = rows(ids, found, self.strengths[adapter])
        return found


class TriggerRows(nn.Module, Strengths):
    """The learned words of a text encoder: for peft and diffusers an adapter layer like others.

    `svfit_rows[adapter]`: the rows of a concept. kind: of what is learned. place: the attribute of
    the module that they lie in.
    """

    kind: ClassVar[type[LearnedRows]] = LearnedRows
    place: ClassVar[str] = PLACE

    adapter_layer_names = ("svfit_rows",)
    other_param_names = ("svfit_scaling",)

    def __init__(self, holder: nn.Module, base_layer: FusedRows | None = None) -> None:
        super().__init__()
        self.base_layer = base_layer or FusedRows()
        self.svfit_rows = nn.ModuleDict()
        self.start_strengths()
        self.bind(holder)

    def bind(self, holder: nn.Module) -> None:
        """Remember the module that they lie in."""
        self.__dict__["_holder"] = weakref.ref(holder)

    @property
    def holder(self) -> nn.Module | None:
        """The module that they lie in; None where it is gone, or not known as in a lone copy."""
        reference = self.__dict__.get("_holder")
        return reference() if reference else None

    @property
    def in_place(self) -> bool:
        """Whether they are still where they were put."""
        return self._placed(self)

    @property
    def remains(self) -> bool:
        """Whether they, or at least what was fused of them, are still where they were put."""
        return self.in_place or self._placed(self.base_layer)

    def _placed(self, module: nn.Module) -> bool:
        if "_holder" not in self.__dict__:
            return True
        return self.holder is not None and self.holder._modules.get(self.place) is module

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_holder"}

    def __deepcopy__(self, memo: dict) -> TriggerRows:
        """A copy that belongs to the copy of its holder, where that is being copied too."""
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        holder = self.holder
        if holder is not None and id(holder) in memo:
            copied.bind(memo[id(holder)])
        return copied

    def forward(self, ids: Tensor, found: Tensor) -> Tensor:
        """Embeddings found [..., length, width], with the rows at the ids [..., length] of them."""
        found = self.base_layer(ids, found)
        for adapter, rows in self.svfit_rows.items():
            if adapter not in self.merged_adapters:
                found = rows(ids, found, self.strength(adapter))
        return found

    @property
    def batch(self) -> int:
        """Of how many texts each hears words of its own; 1 where all hear the same."""
        held = (rows for adapter, rows in self.svfit_rows.items() if self.acts(adapter))
        return max((len(rows.texts or ((),)) for rows in held), default=1)

    def heard(self, text: int | None = None) -> tuple[Word, ...]:
        """The words that are in use now, in text number `text` of a batch, or in any."""
        fused = [*self.base_layer.known()]
        if not self.in_place:  # unloaded; what was fused stays
            return tuple(fused) if self.remains else ()
        if self._disable_adapters and self.merged_adapters:
            self.unmerge()
            fused = [*self.base_layer.known()]
        for adapter, rows in self.svfit_rows.items():
            if adapter not in self.merged_adapters and self.acts(adapter):
                fused += rows.heard(text)
        return tuple(fused)

    def known(self) -> tuple[Word, ...]:
        """All words, also those that are not in use."""
        held = (*self.base_layer.fused.values(), *self.svfit_rows.values())
        return tuple(dict.fromkeys(word for rows in held for word in rows.words))

    def update_layer(
        self,
        adapter: str,
        words: tuple[Word, ...],
        rows: Tensor,
        start: Tensor,
        train: bool,
        texts: tuple[tuple[Word, ...], ...] | None = None,
    ) -> None:
        """Add rows [tokens, width] of an adapter, or replace them, in place where as many.

        texts: of a batch, the words that each of its texts hears.
        """
        held = dict(self.svfit_rows.items()).get(adapter)
        if held is not None and len(held) == len(rows) and held[0].requires_grad == train:
            held.words, held.texts = words, texts
            with torch.no_grad():
                for parameter, row in zip(held, rows, strict=True):
                    parameter.copy_(row)
                held.start.copy_(start)
            return
        self.svfit_rows[adapter] = self.kind(words, rows, start, train)
        self.svfit_rows[adapter].texts = texts
        self.svfit_scaling.setdefault(adapter, 1.0)
        if adapter not in self.active_adapters:
            self._active_adapter = [*self._present(self.active_adapters), adapter]

    def move_adapter(self, adapter: str, device: object) -> None:
        """Move an adapter's rows to a device."""
        self.svfit_rows[adapter].to(device)

    def merged_strength(self, adapter: str) -> float:
        """The strength at which an adapter was merged."""
        return self.base_layer.strengths[adapter]

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """Rows can always be merged."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Let the rows of the named adapters, or all active ones, stay as they now are."""
        for adapter in self._present(check_adapters_to_merge(self, adapter_names) or ()):
            self.base_layer.fused[adapter] = self.svfit_rows[adapter]
            self.base_layer.strengths[adapter] = self.svfit_scaling[adapter]
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Let the merged rows follow their strengths again."""
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            del self.base_layer.fused[adapter], self.base_layer.strengths[adapter]

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete the rows of an adapter; what is merged stays so."""
        if adapter_name in self.merged_adapters:
            self.merged_adapters.remove(adapter_name)
        super().delete_adapter(adapter_name)
