"""Checkpoints in one file hold weights only: configurations and tokenizers of the common kinds.

The configurations in `originals/` are those of Stable Diffusion 1.5, 2.1 and SDXL 1.0 as published;
`clip_merges.txt.gz` are the merges of CLIP's byte pairs (OpenAI, MIT licence; here from
open_clip_torch 3.3.0), from which its vocabulary follows. SD3 and FLUX.1 also need T5's tokenizer,
which diffusers downloads.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

END = "<|endoftext|>"
PADDING = {  # diffusers' kind of checkpoint -> tokenizer -> what it fills prompts with
    "v1": {"tokenizer": END},
    "v2": {"tokenizer": "!"},
    "xl_base": {"tokenizer": END, "tokenizer_2": "!"},
}


def configuration(kind: str) -> Path | None:
    """The folder of a kind's configurations, in diffusers' layout; None where none is at hand."""
    return Path(str(files(__package__))) / "originals" / kind if kind in PADDING else None


def tokenizers(kind: str) -> dict[str, Any]:
    """The tokenizers of a kind whose configuration is at hand, by their names in the pipeline."""
    return {name: clip_tokenizer(padding) for name, padding in PADDING[kind].items()}


def clip_tokenizer(padding: str) -> CLIPTokenizer:
    """CLIP's tokenizer of 49,408 tokens."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip()
    return CLIPTokenizer(
        vocab=dict(vocabulary), merges=list(merges), pad_token=padding, model_max_length=77
    )


@cache
def _clip() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary (256 bytes, the same at a word's end, the merged, two marks) and merges."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    text = (files(__package__) / "originals" / "clip_merges.txt.gz").read_bytes()
    pairs = [line.split() for line in gzip.decompress(text).decode().splitlines()]
    merges = [(first, second) for first, second in pairs]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    words += ["<|startoftext|>", END]
    return {word: i for i, word in enumerate(words)}, merges
