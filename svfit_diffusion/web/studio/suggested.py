"""Bases that the page suggests, with what each needs, known without asking the Hub.

The numbers of weights are those of the published configurations, as are the bytes of each weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...families import TOYBOX
from ...generation import size_text
from .bases import memory_sentence


@dataclass(frozen=True)
class Suggested:
    """A base: its name, its Hub id, how many weights it has, and bytes of each in its files."""

    name: str
    source: str
    weights: int = 0
    width: int = 4

    def sentence(self) -> str:
        """Download and memory, as far as they matter."""
        if self.source == TOYBOX:
            return "Toy-like objects, for a first try. No download."
        fetch = size_text(self.weights * self.width)
        return f"About {fetch} to download, {memory_sentence(self.weights)}"


SUGGESTED = (
    Suggested("Toybox", TOYBOX),
    Suggested("Stable Diffusion 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", 1_369_500_000),
    Suggested("SDXL", "stabilityai/stable-diffusion-xl-base-1.0", 3_468_800_000),
    Suggested("FLUX.1", "black-forest-labs/FLUX.1-dev", 16_870_600_000, 2),
)
