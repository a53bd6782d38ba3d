"""The learned trigger of a concept: teaching a text encoder and its tokenizer the word.

Textual inversion (arXiv 2208.01618), trained together with the deltas. The rows lie in the text
encoder (rows.py); the tokenizer gives their ids where the word stands in a text (tokenizer.py). An
encoder that is not trained through gets vectors for its output instead (outputs.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..concept import Concept, Trigger
from ..families import Family, WordOutput
from .word import (
    VECTORS,
    InstanceMixin,
    SavesWords,
    TagsWords,
    TriggerRows,
    Word,
    install_rows,
    install_vectors,
    listen,
    new_ids,
    plain_ids,
    rows_of,
    stop_listening,
    token_names,
    uninstall_rows,
    uninstall_vectors,
)

MAX_TOKENS = 1_000  # rows of learned words in one text encoder


def teach(
    tokenizer: Any,
    encoder: nn.Module,
    adapter: str,
    calls: Sequence[Trigger],
    rows: Sequence[Tensor],
    train: bool = False,
) -> tuple[Word, ...]:
    """Teach the words of an adapter, in place of those that it had.

    calls: word, class word and share of the strength of each. rows: [tokens, width] of each.
    """
    _check_width(rows, encoder.get_input_embeddings().weight.shape[1])
    old = _held(encoder, adapter)
    nouns = [(call.class_word, len(block)) for call, block in zip(calls, rows, strict=True)]
    if old is not None and nouns == [(word.class_word, len(word.ids)) for word in old.words]:
        start = old.start  # a swap, which is to be quick
    else:
        start = torch.cat([start_row(tokenizer, encoder, n).expand(k, -1) for n, k in nouns])
    words = _words(tokenizer, encoder, old, calls, rows)
    held, methods = hold(tokenizer, encoder, None)
    held.update_layer(adapter, words, *placed(encoder, torch.cat(list(rows)), start), train)
    listen(tokenizer, held, methods)
    return words


def teach_output(
    tokenizer: Any,
    encoder: nn.Module,
    output: WordOutput,
    adapter: str,
    calls: Sequence[Trigger],
    vectors: Sequence[Tensor],
    train: bool = False,
) -> tuple[Word, ...]:
    """Teach the words of an adapter to the output of a text encoder that is not trained through.

    calls: word, class word and share of the strength of each. vectors: [tokens, layers x width] of
    each.
    """
    _check_width(vectors, output_width(encoder, output))
    words = _words(tokenizer, encoder, _held(encoder, adapter), calls, vectors)
    held, methods = hold(tokenizer, encoder, output)
    learned = torch.cat(list(vectors))
    held.update_layer(adapter, words, *placed(encoder, learned, 0 * learned), train)
    listen(tokenizer, held, methods)
    return words


def hold(
    tokenizer: Any, encoder: nn.Module, output: WordOutput | None
) -> tuple[TriggerRows, type[InstanceMixin]]:
    """What holds the words of a text encoder, put in if it is not there yet, and the methods that
    its tokenizer needs. output: where its output gets them; None: it is trained through.
    """
    if output is None:
        if rows_of(encoder) is None:
            pool_at_end(encoder, tokenizer)
        return install_rows(encoder), SavesWords
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not say where a word stands in a prompt, so the text "
            "encoder cannot be taught one; use the fast tokenizer of the base."
        )
    return install_vectors(encoder, output), TagsWords


def output_width(encoder: nn.Module, output: WordOutput) -> int:
    """The numbers of a vector: layers x width of the encoder's hidden states."""
    return max(1, len(output.layers)) * encoder.config.get_text_config().hidden_size


def _check_width(rows: Sequence[Tensor], width: int) -> None:
    for block in rows:
        if block.ndim != 2 or block.shape[1] != width:
            raise ValueError(
                f"the trigger has rows of shape {tuple(block.shape)}, but this text encoder takes "
                f"{width} numbers a row; the concept belongs to another base."
            )


def placed(encoder: nn.Module, *parts: Tensor) -> list[Tensor]:
    """Parts of rows in float32, on the encoder's device."""
    place = encoder.get_input_embeddings().weight.device
    place = "cpu" if place.type == "meta" else place
    return [part.to(place, torch.float32) for part in parts]


def _words(
    tokenizer: Any, encoder: nn.Module, old: Any, calls: Sequence[Trigger], rows: Sequence[Tensor]
) -> tuple[Word, ...]:
    """The words of an adapter, each with ids for its rows [tokens, width]."""
    ids = iter(_ids(tokenizer, encoder, old, calls, rows))
    return tuple(
        Word(call.word, tuple(next(ids) for _ in block), call.strength, call.class_word)
        for call, block in zip(calls, rows, strict=True)
    )


def _held(encoder: nn.Module, adapter: str) -> Any:
    """The rows that an adapter has, or None."""
    held = rows_of(encoder)
    return None if held is None else dict(held.svfit_rows.items()).get(adapter)


def _ids(
    tokenizer: Any, encoder: nn.Module, old: Any, calls: Sequence[Trigger], rows: Sequence
) -> tuple[int, ...]:
    """Ids for all tokens of the words; those that the adapter has, where they are as many."""
    if old is not None and len(old) == sum(map(len, rows)):
        return tuple(i for word in old.words for i in word.ids)
    pairs = zip(calls, rows, strict=True)
    return new_ids(
        tokenizer, encoder, [n for call, block in pairs for n in token_names(call.word, len(block))]
    )


def forget(tokenizer: Any, encoder: nn.Module, adapter: str) -> None:
    """Take an adapter's words away; with the last one, encoder and tokenizer are as they were."""
    held = rows_of(encoder)
    if held is not None and adapter in held.svfit_rows:
        held.drop(adapter)
        uninstall_vectors(encoder) if held.place == VECTORS else uninstall_rows(encoder)
    if tokenizer is not None:
        stop_listening(tokenizer)


def teach_concept(pipe: Any, family: Family, adapter: str, calls: Iterable[Trigger]) -> None:
    """Teach a pipeline's text encoders the learned words of a concept."""
    calls, outputs = tuple(calls), family.outputs(pipe)
    for part, tokenizer in family.word_tokenizers(pipe).items():
        ours = [call for call in calls if part in call.rows]
        rows = [torch.from_numpy(call.rows[part]).float() for call in ours]
        encoder = family.holders(pipe)[part]
        if not ours:
            forget(tokenizer, encoder, adapter)
        elif part in outputs:
            teach_output(tokenizer, encoder, outputs[part], adapter, ours, rows)
        else:
            teach(tokenizer, encoder, adapter, ours, rows)


def pool_at_end(encoder: nn.Module, tokenizer: Any) -> None:
    """Let a CLIP encoder pool at the end token.

    Older configurations (SDXL's) say 2 for it, by which transformers takes the largest id of a
    prompt instead. That is the end token, until a prompt holds a token added after it.
    """
    for module in encoder.modules():
        if getattr(module, "eos_token_id", None) == 2:
            module.eos_token_id = tokenizer.eos_token_id


def get_rows(encoder: nn.Module, adapter: str) -> Tensor:
    """The rows [tokens, width] of an adapter, float32 on the CPU."""
    return torch.stack([row.detach().cpu().float() for row in row_parameters(encoder, adapter)])


def row_parameters(encoder: nn.Module, adapter: str) -> list[nn.Parameter]:
    """The rows [width] of an adapter, one parameter each."""
    return list(rows_of(encoder).svfit_rows[adapter])


def check_rows(pipe: Any, family: Family, concept: Concept) -> None:
    """Refuse learned rows that a pipeline's text encoders cannot take, at any strength."""
    shapes, tokenizers = concept.trigger_shape, family.word_tokenizers(pipe)
    outputs, models = family.outputs(pipe), family.holders(pipe)
    absent = [part for part in shapes if part in family.word_parts and part not in tokenizers]
    if absent:
        raise ValueError(
            f"this concept's learned word is heard in {absent[0]!r}, which the pipeline was loaded "
            "without; load the whole pipeline."
        )
    nouns = [call.class_word for call in concept.all_triggers() if call.rows]
    embedded = {tokens for part, (tokens, _) in shapes.items() if part not in concept.outputs}
    fit = len(embedded) <= 1
    for part, (tokens, width) in shapes.items():
        fit = fit and part in tokenizers and tokens <= MAX_TOKENS
        if not fit:
            break
        encoder, output = models[part], outputs.get(part)
        fit = concept.outputs.get(part) == (output.layers if output else None)
        if output:
            fit = fit and output_width(encoder, output) == width
            continue
        fit = fit and encoder.get_input_embeddings().weight.shape[1] == width
        rows = rows_of(encoder) if fit else None
        taught = {word.class_word for word in rows.known()} if rows else set()
        for noun in nouns if fit else ():
            fit = fit and (noun in taught or bool(plain_ids(tokenizers[part], noun)))
    if not fit:
        raise ValueError(
            "this concept's learned word is not one for the text encoders of the pipeline; the "
            "file is damaged, or of another base."
        )


@torch.no_grad()
def start_row(tokenizer: Any, encoder: nn.Module, words: str) -> Tensor:
    """Where a trigger starts: the mean embedding [width] of the class word's tokens, float32."""
    ids = plain_ids(tokenizer, words)
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
