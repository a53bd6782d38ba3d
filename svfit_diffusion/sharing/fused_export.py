"""The base with a concept merged into its weights, as a diffusers folder that any program reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import AddedToken
from torch import nn

from ..concept import Concept, Trigger, printable
from ..families import Family, recognise
from ..pipeline import fuse_concepts, load_concept, loaded_concepts, trigger
from .lora_card import Exported
from .lora_export import checked_dtype


def export_pipeline(
    concept: Concept, pipe: Any, folder: str | Path, dtype: str = "float32", strength: float = 1.0
) -> Exported:
    """Write the base `pipe` with the concept merged into its weights, as a diffusers folder.

    The pipeline is changed and cannot be used as the base afterwards. A learned trigger replaces
    the embedding of its word, so that any program understands it; a trigger of several tokens is
    added as `<word>`.
    """
    family = recognise(pipe)
    if loaded_concepts(pipe):
        raise ValueError("the pipeline has concepts loaded; export with a freshly loaded base.")
    lacks, concept = concept.output_words, concept.without_outputs()
    plain = replace(concept, trigger_rows=None, trigger_shape={}, triggers={})
    load_concept(pipe, plain, strength, name="fused")
    fuse_concepts(pipe)
    words = [_write_trigger(one, pipe, family, strength) for one in concept.all_triggers()]
    try:
        pipe.to(checked_dtype(dtype)).save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{folder} could not be written whole ({error}); delete it.") from error
    words = printable(", ".join(words))
    calls = {"diffusers, and any program that reads it": words}
    return Exported((Path(folder),), words, calls, lacks)


@torch.no_grad()
def _write_trigger(call: Trigger, pipe: Any, family: Family, strength: float) -> str:
    """Write a learned trigger into the text encoders' tables; returns the words that call it."""
    parts = [(getattr(pipe, t), getattr(pipe, p), p) for t, p in family.encoders if p in call.rows]
    found = [tokenizer(call.word, add_special_tokens=False).input_ids for tokenizer, _, _ in parts]
    count = max((len(rows) for rows in call.rows.values()), default=0)
    single = count == 1 and all(len(ids) == 1 for ids in found)
    for tokenizer, encoder, part in parts:
        rows = trigger.scaled_rows([call], part, strength, tokenizer, encoder)
        if single:
            ids = tokenizer(call.word, add_special_tokens=False).input_ids
        else:  # diffusers reads `<word>` as `<word> <word>_1 ...`
            names = [f"<{call.word}>", *(f"<{call.word}>_{i}" for i in range(1, count))]
            added = [AddedToken(name, normalized=False, special=False) for name in names]
            tokenizer.add_tokens(added)
            ids = tokenizer.convert_tokens_to_ids(names)
            encoder.resize_token_embeddings(len(tokenizer))
            trigger.pool_at_end(encoder, tokenizer)
            encoder.config.eos_token_id = tokenizer.eos_token_id
        table: nn.Embedding = encoder.get_input_embeddings()
        table.weight[ids] = rows.to(table.weight)
    return str(call) if single or not count else f"<{call.word}> {call.class_word}".strip()
