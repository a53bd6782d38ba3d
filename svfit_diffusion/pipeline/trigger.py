"""The learned trigger: rows of a text encoder's embedding that stand for the subject.

Textual inversion (arXiv 2208.01618), trained together with the deltas. Each row gets a token of its
own, named as no word is; wherever the trigger stands as a whole word in a prompt, the pipeline puts
that token in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from torch import Tensor, nn

from ..concept import Concept, Trigger

MAX_TOKENS = 1_000  # rows of learned words in one text encoder


class TriggerEmbedding(nn.Embedding):
    """An embedding [vocabulary, width] with further rows, by token id, beside its table.

    It shares the table with the embedding that it stands in for, which `original` keeps.
    """

    def __init__(self, original: nn.Embedding) -> None:
        super().__init__(original.num_embeddings, original.embedding_dim, _weight=original.weight)
        self.weight = original.weight
        self.__dict__["original"] = original  # not a submodule: its weight is ours already
        self.svfit_rows = nn.ParameterDict()

    def forward(self, ids: Tensor) -> Tensor:
        """ids [..., length] -> [..., length, width]."""
        found = F.embedding(ids.clamp(max=self.num_embeddings - 1), self.weight)
        for token, row in self.svfit_rows.items():
            found = torch.where((ids == int(token)).unsqueeze(-1), row.to(found), found)
        return found


def add_tokens(tokenizer: Any, names: list[str]) -> list[int]:
    """Add tokens that match only as they are written; returns their ids."""
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    return [tokenizer.convert_tokens_to_ids(name) for name in names]


def set_rows(encoder: nn.Module, ids: list[int], rows: Tensor, train: bool = False) -> None:
    """Give a text encoder the rows [len(ids), width] for token ids, new or to be replaced."""
    embedding = encoder.get_input_embeddings()
    if rows.shape != (len(ids), embedding.embedding_dim):
        raise ValueError(
            f"the trigger has rows of shape {tuple(rows.shape)}, but this text encoder takes "
            f"{(len(ids), embedding.embedding_dim)}; the concept belongs to another base."
        )
    if not isinstance(embedding, TriggerEmbedding):
        embedding = TriggerEmbedding(embedding)
        encoder.set_input_embeddings(embedding)
    for token, row in zip(ids, rows, strict=True):
        value = row.detach().to(embedding.weight.device, torch.float32).clone()
        held = embedding.svfit_rows.get(str(token))
        if held is not None and held.requires_grad == train:
            held.data.copy_(value)  # in place, so that a compiled encoder stays compiled
        else:
            embedding.svfit_rows[str(token)] = nn.Parameter(value, requires_grad=train)


def pool_at_end(encoder: nn.Module, tokenizer: Any) -> None:
    """Let a CLIP encoder pool at the end token.

    Older configurations (SDXL's) say 2 for it, by which transformers takes the largest id of a
    prompt instead. That is the end token, until a prompt holds a token added after it.
    """
    for module in encoder.modules():
        if getattr(module, "eos_token_id", None) == 2:
            module.eos_token_id = tokenizer.eos_token_id


def get_rows(encoder: nn.Module, ids: list[int]) -> Tensor:
    """The rows [len(ids), width] of token ids, float32 on the CPU."""
    rows = encoder.get_input_embeddings().svfit_rows
    return torch.stack([rows[str(token)].detach().cpu().float() for token in ids])


def row_parameters(encoder: nn.Module, ids: list[int]) -> list[nn.Parameter]:
    """The trainable rows of token ids."""
    return [encoder.get_input_embeddings().svfit_rows[str(token)] for token in ids]


def remove_rows(encoder: nn.Module, ids: Iterable[int]) -> None:
    """Take rows away; with the last one, the encoder's own embedding stands there again."""
    embedding = encoder.get_input_embeddings()
    if not isinstance(embedding, TriggerEmbedding):  # the load was broken off before
        return
    for token in set(map(str, ids)) & set(embedding.svfit_rows):
        del embedding.svfit_rows[token]
    if not embedding.svfit_rows:
        encoder.set_input_embeddings(embedding.original)


def check(pipe: Any, encoders: Iterable[tuple[str, str]], concept: Concept) -> None:
    """Refuse learned rows that a pipeline's text encoders cannot take, at some strength or other.

    encoders: (tokenizer, text encoder), by their names in the pipeline.
    """
    shapes, known = concept.trigger_shape, {part: tokenizer for tokenizer, part in encoders}
    nouns = [call.class_word for call in concept.calls() if call.rows]
    fit = len({tokens for tokens, _ in shapes.values()}) <= 1
    for part, (tokens, width) in shapes.items():
        encoder = getattr(pipe, part, None) if part in known else None
        fit = fit and encoder is not None and tokens <= MAX_TOKENS
        fit = fit and encoder.get_input_embeddings().embedding_dim == width
        for noun in nouns if fit else ():
            fit = fit and bool(getattr(pipe, known[part])(noun, add_special_tokens=False).input_ids)
    if not fit:
        raise ValueError(
            "this concept's learned word is not one for the text encoders of the pipeline; the "
            "file is damaged, or of another base."
        )


@torch.no_grad()
def start_row(tokenizer: Any, encoder: nn.Module, words: str) -> Tensor:
    """Where a trigger starts: the mean embedding [width] of the class word's tokens, float32."""
    ids = tokenizer(words, add_special_tokens=False).input_ids
    if not ids:
        raise ValueError(
            f"the class word {words!r} has no tokens; say what the subject is, such as 'dog'."
        )
    table = encoder.get_input_embeddings().weight
    return table[torch.tensor(ids, device=table.device)].float().mean(0).cpu()


@torch.no_grad()
def scaled_rows(
    calls: Iterable[Trigger], part: str, strength: float, tokenizer: Any, encoder: nn.Module
) -> Tensor:
    """The learned rows [tokens, width] of a text encoder `part`, moved from the class word's
    embedding by their strength: 0 is the class word, 1 as learned.
    """
    found = []
    for call in calls:
        if part in call.rows:
            rows, share = torch.from_numpy(call.rows[part]).float(), strength * call.strength
            if share != 1:
                start = start_row(tokenizer, encoder, call.class_word)
                rows = start + share * (rows - start)
            found.append(rows)
    return torch.cat(found)


def register_tokens(
    pipe: Any,
    encoders: Iterable[tuple[str, str]],
    calls: Iterable[Trigger],
    held: Mapping[str, list[int]],
) -> tuple[dict[str, list[str]], dict[str, list[int]]]:
    """Make tokens for learned triggers; rows of `held` (text encoder -> ids) that go are removed.

    encoders: (tokenizer, text encoder), by their names in the pipeline. Returns each word's tokens,
    and text encoder -> ids of all of them; their rows are still to be set.
    """
    learned = [(call.word, len(next(iter(call.rows.values())))) for call in calls if call.rows]
    words = {word: [f"<svfit-{word}-{i}>" for i in range(count)] for word, count in learned}
    names = [name for tokens in words.values() for name in tokens]
    ids = {}
    for tokenizer, part in encoders:
        reader, encoder = getattr(pipe, tokenizer), getattr(pipe, part)
        if any(part in call.rows for call in calls):
            ids[part] = add_tokens(reader, names)
        if part in held:
            remove_rows(encoder, set(held[part]) - set(ids.get(part, ())))
        elif part in ids:
            pool_at_end(encoder, reader)
    return words, ids


def write_rows(
    pipe: Any,
    encoders: Iterable[tuple[str, str]],
    calls: Iterable[Trigger],
    strength: float,
    ids: Mapping[str, list[int]],
) -> None:
    """Write the rows of learned triggers, at their strength, under the ids that `place` gave."""
    for tokenizer, part in encoders:
        if part in ids:
            reader, encoder = getattr(pipe, tokenizer), getattr(pipe, part)
            set_rows(encoder, ids[part], scaled_rows(calls, part, strength, reader, encoder))


def put_tokens(prompt: str, tokens: Mapping[str, str]) -> str:
    """The prompt with each trigger that is a whole word (in any case) as its token."""
    for word, name in tokens.items():
        whole = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        prompt = whole.sub(lambda _, name=name: f" {name} ", prompt)
    return re.sub(r"\s+", " ", prompt).strip() if tokens else prompt
