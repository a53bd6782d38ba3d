"""What a base's tokenizers make of words: prompts that are too long, triggers in many pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..families import plain_tokenizer, recognise
from ..settings import RARE_WORDS

QUOTED = 200  # characters of what was cut


@dataclass(frozen=True)
class PromptLength:
    """tokens: of a prompt, of the `room` that the base reads. unread: its end that is not read."""

    tokens: int
    room: int
    unread: str = ""


def prompt_length(pipe: Any, prompt: str) -> PromptLength:
    """How long a prompt is for a base, and what of it is not read.

    Of several tokenizers, the one that reads most counts; the words that a chat template adds to a
    prompt do not.
    """
    family, found = recognise(pipe), []
    for name, length in family.prompt_tokenizers(pipe):
        read = plain_tokenizer(pipe, name)(
            prompt, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
        marks = zip(read.offset_mapping, read.special_tokens_mask, strict=True)
        starts = [start for (start, _), special in marks if not special]
        room = length - (len(read.input_ids) - len(starts))
        end = prompt[starts[room] :].rstrip() if len(starts) > room else ""
        found.append(PromptLength(len(starts), room, end))
    return min(found, key=lambda length: len(length.unread), default=PromptLength(0, 0))


def unread(pipe: Any, prompt: str) -> str:
    """The end of a prompt that the base does not read, "" where it reads all of it."""
    return prompt_length(pipe, prompt).unread


def warn_unread_prompt(pipe: Any, prompt: str, what: str = "prompt") -> str:
    """A sentence on what of a prompt is not read, "" where all of it is."""
    end = unread(pipe, prompt)
    if not end:
        return ""
    quoted = end if len(end) <= QUOTED else f"{end[: QUOTED - 1]}…"
    return f"the {what} is too long: this base does not read its end {quoted!r}; shorten it."


def warn_split_trigger(pipe: Any, word: str, learned: bool) -> str:
    """A sentence on a trigger that the base reads in many pieces, "" where none reads better.

    learned: the text encoders that can be taught a word have one of their own for it; then only
    those count that read it as typed.
    """
    family = recognise(pipe)
    names = [
        name for name, _ in (*family.frozen_text_encoders, *(() if learned else family.encoders))
    ]
    tokenizers = [found for name in names if (found := plain_tokenizer(pipe, name))]
    if not tokenizers:
        return ""

    def pieces(text: str) -> list[str]:
        return max((tokenizer.tokenize(text) for tokenizer in tokenizers), key=len)

    held = pieces(word)
    better = [rare for rare in RARE_WORDS if len(pieces(rare)) < len(held)]
    if not better:
        return ""
    return (
        f"the trigger {word!r} is read in {len(held)} pieces ({' '.join(held)}), each with a "
        f"meaning of its own; a rarer word of fewer pieces is learned better: "
        f"--placeholder_token {' or '.join(better)}."
    )
