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

ROBUST = 1.4826  # standard deviation of a normal distribution, in medians of its magnitudes


@torch.no_grad()
def read_prompt(
    pipe: Any, family: Family, prompt: str, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the frozen text encoders say of a prompt as it is typed, by the family's names; and, by
    these, the number of the vector at each place of the states, [1, length], from 1; 0: none.
    """
    taught = _taught(pipe, family)
    words = {word.word.lower(): () for rows in taught.values() for word in rows.known()}
    frozen = _read(pipe, family, prompt, device, TYPED)
    if any(find_words(prompt, words)):
        return frozen, places_of(pipe, family, prompt, device)
    names = [family.outputs(pipe)[part].states for part in taught]
    return frozen, {name: torch.zeros_like(frozen[name][..., 0]).long() for name in names}


@torch.no_grad()
def places_of(pipe: Any, family: Family, prompt: str, device: torch.device) -> dict[str, Tensor]:
    """The number of the vector at each place of the states of a prompt, as in `read_prompt`."""
    found = _read(pipe, family, prompt, device, PLACES)
    names = [family.outputs(pipe)[part].states for part in _taught(pipe, family)]
    return {name: found[name][..., 0].round().long() for name in names}


def _taught(pipe: Any, family: Family) -> dict[str, Any]:
    """Text encoder -> its vectors, of those that have some."""
    models = family.holders(pipe)
    return {part: v for part in family.outputs(pipe) if (v := rows_of(models[part])) is not None}


def _read(
    pipe: Any, family: Family, prompt: str, device: torch.device, what: str
) -> dict[str, Tensor]:
    """What the frozen text encoders give of a prompt: TYPED, or PLACES."""
    with contextlib.ExitStack() as held:
        for part in _taught(pipe, family):
            held.enter_context(reading(family.holders(pipe)[part], what))
        return family.encode_frozen(pipe, [prompt], device)


@torch.no_grad()
def class_difference(
    pipe: Any, family: Family, part: str, word: str, class_word: str
) -> tuple[Tensor, float]:
    """Where a vector [layers x width] starts, float32: added to the word's states, it makes their
    mean that of the class word's; and the size of such states, by their median.
    """
    typed, wanted = (
        _mean_state(pipe, family, part, text, said)
        for text, said in ((word, True), (class_word, False))
    )
    return wanted - typed, ROBUST * wanted.abs().median().item()


def _mean_state(pipe: Any, family: Family, part: str, word: str, trigger: bool) -> Tensor:
    """The mean state [layers x width] of a word's tokens in a plain prompt, float32 on the CPU.

    trigger: it must not be among the words that the base puts around each prompt.
    """
    output, encoder = family.outputs(pipe)[part], family.holders(pipe)[part]
    tokenizer = family.word_tokenizers(pipe)[part]
    nothing = torch.zeros(1, output_width(encoder, output))
    teach_output(tokenizer, encoder, output, "start", [Trigger(word, "", {})], [nothing])
    try:
        frozen, places = read_prompt(pipe, family, f"a photo of {word}", encoder.device)
        around = places_of(pipe, family, "", encoder.device)[output.states] if trigger else None
    finally:
        forget(tokenizer, encoder, "start")
    states, there = frozen[output.states], places[output.states] > 0
    if around is not None and around.any():
        raise ValueError(
            f"the trigger {word!r} is one of the words that this base puts around each prompt; "
            "choose another, such as sks."
        )
    if not there.any():
        raise ValueError(
            f"the base reads no tokens of {word!r}; say what the subject is, such as 'dog', and "
            "what calls it, such as 'sks'."
        )
    return states[there].float().mean(0).cpu()
