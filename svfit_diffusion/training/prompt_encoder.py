"""Prompts as a training's denoiser takes them; what no step changes is computed once a prompt."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..pipeline import read_prompt, with_vector
from .adapted_base import AdaptedBase
from .offloading import at_work


class PromptEncoder:
    """Conditioning of prompts, with a cache of what stays the same through a training.

    cache: prompt -> the part of its conditioning that no step changes: all of it where no text
    encoder is trained, else what the frozen text encoders give. It is in main memory: a prompt of
    FLUX.2 takes 16 MB, and captions are tried by the hundred. places: prompt -> where the trigger's
    vectors are added to it.
    """

    def __init__(self, base: AdaptedBase) -> None:
        self.base = base
        self.cache: dict[str, dict[str, Tensor]] = {}
        self.places: dict[str, dict[str, Tensor]] = {}

    def encode(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """Conditioning of the prompts, as the family names it: each tensor [prompts, ...], where
        they differ in length padded with zeros.
        """
        self.fill_cache(prompts)
        constant = _together([self.cache[prompt] for prompt in prompts], device)
        if not self.base.trains_text:
            return constant
        places = _together([self.places[prompt] for prompt in prompts], device)
        return self._encode_trained(prompts, self._with_word(constant, places), device)

    def fill_cache(self, prompts: Iterable[str]) -> None:
        """Compute what no step changes, of prompts that are new."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.cache]
        with at_work(self.base, self.base.family.text_models(self.base.pipe) if new else ()):
            for prompt in new:
                self._read(prompt)

    def prune_cache(self, kept: Iterable[str]) -> None:
        """Drop what is cached of any other prompt."""
        for prompt in set(self.cache) - set(kept):
            del self.cache[prompt], self.places[prompt]

    @torch.no_grad()
    def _read(self, prompt: str) -> None:
        base = self.base
        text, places = read_prompt(base.pipe, base.family, prompt, base.device)
        if not base.trains_text:
            text = self._encode_trained([prompt], text, base.device)
        self.cache[prompt] = {key: value.to("cpu") for key, value in text.items()}
        self.places[prompt] = {key: value.to("cpu") for key, value in places.items()}

    def _with_word(self, frozen: dict[str, Tensor], places: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the frozen text encoders say, with the trigger's vectors as they are now."""
        found = dict(frozen)
        for part, output in self.base.outputs.items():
            states, numbers = frozen[output.states], places[output.states]
            vectors = torch.stack(self.base.learned_rows(part)).to(states.device)
            picked = vectors[(numbers - 1).clamp(min=0)]
            found[output.states] = with_vector(states, numbers > 0, picked)
        return found

    def _encode_trained(
        self, prompts: list[str], frozen: dict[str, Tensor], device: torch.device
    ) -> dict[str, Tensor]:
        """All conditioning, by the text encoders that may be trained and what the others gave."""
        base = self.base
        ids = base.family.tokenize(base.pipe, prompts)
        return base.family.encode_text(base.pipe, tuple(i.to(device) for i in ids), frozen)


def _together(parts: list[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Tensors [1, ...] of several prompts side by side, on a device; the shorter ones are padded
    with zeros at their end.
    """
    return {
        key: pad_sequence([part[key][0] for part in parts], batch_first=True).to(device)
        for key in parts[0]
    }
