"""Prompts as a training's denoiser takes them; what no step changes is computed once a prompt."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .adapted_base import AdaptedBase


class PromptEncoder:
    """Conditioning of prompts, with a cache of what stays the same through a training.

    cache: prompt -> the part of its conditioning that no step changes: all of it where no text
    encoder is trained, else what the frozen text encoders give. It is in main memory: a prompt of
    FLUX.2 takes 16 MB, and captions are tried by the hundred.
    """

    def __init__(self, base: AdaptedBase) -> None:
        self.base = base
        self.cache: dict[str, dict[str, Tensor]] = {}

    def encode(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """Conditioning of the prompts, as the family names it: each tensor [prompts, ...], where
        they differ in length padded with zeros.
        """
        self.fill_cache(prompts)
        found = [self.cache[prompt] for prompt in prompts]
        constant = {
            key: pad_sequence([text[key][0] for text in found], batch_first=True).to(device)
            for key in found[0]
        }
        if not self.base.trains_text:
            return constant
        return self._encode_trained(prompts, constant, device)

    def fill_cache(self, prompts: Iterable[str]) -> None:
        """Compute what no step changes, of prompts that are new."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self.cache:
                self.cache[prompt] = self._constant_part(prompt)

    def prune_cache(self, kept: Iterable[str]) -> None:
        """Drop what is cached of any other prompt."""
        kept = set(kept)
        self.cache = {prompt: text for prompt, text in self.cache.items() if prompt in kept}

    @torch.no_grad()
    def _constant_part(self, prompt: str) -> dict[str, Tensor]:
        base = self.base
        here = next(iter(base.family.text_models(base.pipe).values())).device
        frozen = base.family.encode_frozen(base.pipe, [prompt], here)
        text = frozen if base.trains_text else self._encode_trained([prompt], frozen, here)
        return {key: value.to("cpu") for key, value in text.items()}

    def _encode_trained(
        self, prompts: list[str], frozen: dict[str, Tensor], device: torch.device
    ) -> dict[str, Tensor]:
        """All conditioning, by the text encoders that may be trained and what the others gave."""
        base = self.base
        ids = base.family.tokenize(base.pipe, prompts)
        return base.family.encode_text(base.pipe, tuple(i.to(device) for i in ids), frozen)
