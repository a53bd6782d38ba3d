"""What frozen text encoders say of a prompt, and where a learned word would be added to it.

A training keeps both, and adds its word itself: no gradient goes through a text encoder, and none
is needed after a prompt was read once. Where the word's tokens are in the states is found by
letting the encoder say so in the place of the states: whatever a pipeline does with these (takes a
chat template off, drops the padding, cuts) is then done with the places too.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from ..concept import Trigger
from ..families import Family
from .trigger import forget, output_width, teach_output
from .word import PLACES, TYPED, find_words, reading, rows_of

MOST_VECTORS = 256  # of a word: numbers that bfloat16 holds
ROBUST = 1.4826  # standard deviation of a normal distribution, in medians of its magnitudes


@torch.no_grad()
def read_prompt(
    pipe: Any, family: Family, prompt: str, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the frozen text encoders say of a prompt as it is typed, by the family's names; and, by
    these, the number of the vector at each place of the states, [1, length], from 1; 0: none.
    """
    models, outputs = family.holders(pipe), family.outputs(pipe)
    taught = {part: rows for part in outputs if (rows := rows_of(models[part])) is not None}
    words = {word.word.lower(): () for rows in taught.values() for word in rows.known()}

    def read(what: str) -> dict[str, Tensor]:
        with contextlib.ExitStack() as held:
            for part in taught:
                held.enter_context(reading(models[part], what))
            return family.encode_frozen(pipe, [prompt], device)

    frozen, found = read(TYPED), {}
    probe = read(PLACES) if any(find_words(prompt, words)) else None
    for part in taught:
        name = outputs[part].states
        first = probe[name] if probe is not None else torch.zeros_like(frozen[name])
        found[name] = first[..., 0].round().long()
    return frozen, found


def class_difference(
    pipe: Any, family: Family, part: str, word: str, class_word: str
) -> tuple[Tensor, float]:
    """Where a vector [layers x width] starts, float32: added to the word's states, it makes their
    mean that of the class word's; and the size of such states, by their median.
    """
    typed, wanted = (_mean_state(pipe, family, part, text) for text in (word, class_word))
    return wanted - typed, ROBUST * wanted.abs().median().item()


def _mean_state(pipe: Any, family: Family, part: str, word: str) -> Tensor:
    """The mean state [layers x width] of a word's tokens in a plain prompt, float32 on the CPU."""
    output, encoder = family.outputs(pipe)[part], family.holders(pipe)[part]
    tokenizer = family.word_tokenizers(pipe)[part]
    nothing = torch.zeros(1, output_width(encoder, output))
    teach_output(tokenizer, encoder, output, "start", [Trigger(word, "", {})], [nothing])
    try:
        frozen, places = read_prompt(pipe, family, f"a photo of {word}", encoder.device)
    finally:
        forget(tokenizer, encoder, "start")
    states, there = frozen[output.states], places[output.states] > 0
    if not there.any():
        raise ValueError(
            f"the base reads no tokens of {word!r}; say what the subject is, such as 'dog', and "
            "what calls it, such as 'sks'."
        )
    return states[there].float().mean(0).cpu()
