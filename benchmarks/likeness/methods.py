"""The methods of the likeness comparison: what each trains, and how much it must store.

Ours are trained by the product itself, with the settings of the row, and their bytes are those of
its file. The others are applied to the same base with peft and trained by the same loss. A method
with a word also learns the trigger's embedding; with captions, those of the photos say what is
behind the subject.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks.likeness.adapters import inject
from svfit_diffusion.concept.packing import blocks, round_to_four_bits
from svfit_diffusion.pipeline.concept_size import estimate_size
from svfit_diffusion.settings import PRESETS, TrainConfig
from svfit_diffusion.settings.options import RANK

SD15_TOKEN = 768  # numbers of one trigger row on Stable Diffusion 1.5
BLOCK = 256  # values of a tensor with a scale of their own, in four bits


@dataclass(frozen=True)
class Method:
    """One row. settings: of `TrainConfig`, if the product trains it. adapter: else, of forms.py
    or peft, "" for none. text: whether the text encoder is adapted. word, captions: see the module.

    bits: of a value in the file, 16 or 4; 4 with one scale per BLOCK of a tensor. rates: learning
    rates of the sweep, relative to the singular values for `settings`. scaled: whether it trains
    the share of Toybox's values that it trains of Stable Diffusion's, not as many. way: of ways.py.
    trial: measured on dev subjects only, beside "plain". vectors: rows of the word, if it is
    learned. word_bits: of a number in them, 16 or 4, as the product rounds vectors. averaged:
    whether its file holds the running average, as those of the product do.
    """

    name: str
    label: str
    adapter: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] | None = None
    word: bool = False
    captions: bool = False
    text: bool = False
    rates: tuple[float, ...] = (5e-3,)
    bits: int = 16
    scaled: bool = False
    way: str = ""
    trial: bool = False
    vectors: int = 1
    word_bits: int = 16
    averaged: bool = False

    @property
    def help(self) -> str:
        """What it is helped by: methods are compared within that."""
        parts = ["word"] * self.word + ["captions"] * self.captions
        return " and ".join(parts) or "none"


def _lora(rank: int) -> dict[str, Any]:
    return {"r": rank, "lora_alpha": rank, "init_lora_weights": "gaussian"}


def _ours(
    name: str, label: str, rates: tuple[float, ...], help: str = "", **settings: Any
) -> Method:
    """A row that the product trains. help: "word", "captions", both or none."""
    word, captions = "word" in help, "captions" in help
    settings |= {"train_token": word, "caption_backgrounds": captions}
    return Method(name, label, settings=settings, word=word, captions=captions, rates=rates)


def _peers(name: str, label: str, kind: str, options: dict, rates: tuple, **more: Any) -> Method:
    """A row of another method, with word and captions."""
    return Method(name, label, kind, options, word=True, captions=True, rates=rates, **more)


def _trial(name: str, label: str, way: str = "") -> Method:
    """Rank 16 everywhere, trained by the comparison itself, in one of the ways of ways.py, all at
    one rate.
    """
    return _peers(name, label, "svfit", {"r": 16}, (1.5e-2,), text=True, bits=4, way=way,
                  trial=True)  # fmt: skip


BOTH = "word captions"
UNSIZED = (  # what all projections share grows with none of them
    *("UniLoraConfig", "VBLoRAConfig", "whole", "chosen", "weighted", "shared", "falling"),
)
DELTAS, LORAS = (1e-2, 4e-2, 8e-2, 1.6e-1), (1.5e-3, 3e-3, 5e-3, 1e-2)
SHARES = (1.5e-2, 5e-2, 1e-1, 1.5e-1)  # of deltas, in their own unit
COMMON = (4e-2, 8e-2, 1.6e-1, 3.2e-1)
BARE = {"common_size": 0, "num_vectors": 1}
WORDS = (5e-3, 1e-2, 2e-2, 4e-2)
RANK_EQUAL = 3  # 16 of Stable Diffusion's 320 to 1280, as a share of Toybox's 128 to 192
DEFAULT_VALUES = 5184  # of Toybox
PAPER = {"rank": "energy=0.99", "delta_bits": 16, **BARE}
ADALORA = {
    **{"init_r": 6, "target_r": 4, "lora_alpha": 6},
    **{"tinit": 20, "tfinal": 50, "deltaT": 5, "total_step": 201},
}
METHODS = (
    Method("base", "the base"),
    _peers("whole", "all weights of UNet and text encoder", "whole", {},
           (3e-5, 1e-4, 3e-4, 1e-3), text=True),
    _ours("default", "SVFit, the default", COMMON, BOTH),
    _ours("default-1", "SVFit, the default, a word of one row", COMMON, BOTH, num_vectors=1),
    _ours("rank-16-4", "SVFit, rank 16", DELTAS, BOTH, common_size=0),
    _ours("rank-16", "SVFit, rank 16, a word of one row", DELTAS, BOTH, **BARE),
    _ours("rank-64", "SVFit, rank 64, a word of one row", DELTAS, BOTH, rank="64", **BARE),
    _ours("tiniest", "SVFit, preset tiniest: rank 4, a word of one row", (1.6e-1,), BOTH,
          **PRESETS["tiniest"]),
    _ours("text-320", "SVFit, rank 16, 320 for values and outputs of the text encoder, a word of "
          "one row", DELTAS, BOTH, text_encoder_rank="320", **BARE),
    _ours("paper-help", "SVFit, 99 % of the energy", DELTAS, BOTH, **PAPER),
    _ours("default-plain", "SVFit, the default's values", DELTAS),
    _ours("paper", "SVFit, 99 % of the energy", (*DELTAS, 3.2e-1), **PAPER),
    _peers("svfit-share", "SVFit, top 3 everywhere", "svfit", {"r": RANK_EQUAL},
           SHARES, text=True, bits=4, scaled=True),
    Method("ti", "the word alone (Textual Inversion)", word=True, captions=True, rates=WORDS),
    Method("ti-4", "the word alone, of 4 rows", word=True, captions=True, rates=WORDS, vectors=4,
           word_bits=4),
    Method("ti-plain", "Textual Inversion", word=True, rates=WORDS),
    _peers("lora-1-help", "LoRA rank 1", "LoraConfig", _lora(1), LORAS),
    _peers("lora-4-help", "LoRA rank 4", "LoraConfig", _lora(4), (*LORAS, 2e-2)),
    _peers("lora-4-vectors-4", "LoRA rank 4, a word of 4 rows", "LoraConfig", _lora(4), LORAS,
           vectors=4, word_bits=4),
    _peers("lora-4-averaged", "LoRA rank 4, a word of 4 rows, the running average", "LoraConfig",
           _lora(4), LORAS, vectors=4, word_bits=4, averaged=True),
    _peers("lora-8-help", "LoRA rank 8", "LoraConfig", _lora(8), LORAS),
    _peers("lora-4-text", "LoRA rank 4, text encoder too", "LoraConfig", _lora(4), LORAS,
           text=True),
    Method("lora-4", "LoRA rank 4", "LoraConfig", _lora(4), rates=LORAS),
    Method("lora-8", "LoRA rank 8", "LoraConfig", _lora(8), rates=LORAS),
    _peers("loha", "LoHa rank 4", "LoHaConfig", {"r": 4, "alpha": 4}, LORAS),
    _peers("lokr", "LoKr rank 4", "LoKrConfig", {"r": 4, "alpha": 4}, LORAS),
    _peers("oft", "OFT, blocks of 8", "OFTConfig", {"oft_block_size": 8, "r": 0},
           (1e-3, 3e-3, 1e-2, 3e-2)),
    _peers("ia3", "IA3", "IA3Config", {"feedforward_modules": []}, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
    _peers("shira", "SHiRA rank 4", "ShiraConfig", {"r": 4}, (1e-3, 3e-3, 1e-2, 3e-2)),
    _peers("adalora", "AdaLoRA, rank 6 to 4", "AdaLoraConfig", ADALORA, LORAS),
    _peers("hra", "HRA rank 4", "HRAConfig", {"r": 4}, (1e-3, 4e-3, 1.5e-2, 4e-2)),
    _peers("psoft", "PSOFT rank 16", "PsoftConfig", {"r": 16, "psoft_alpha": 16},
           (1e-3, 2e-3, 5e-3, 2e-2)),
    _peers("vera", "VeRA", "VeraConfig", {"r": 16}, (3e-3, 1e-2, 3e-2)),
    _peers("core", "cores of 3 x 3 (LoRA-XS)", "core", {"r": 3},
           SHARES, text=True, bits=4),
    _peers("tinylora", "TinyLoRA", "TinyLoraConfig", {"r": 2, "u": 16},
           (1.5e-3, 5e-3, 2e-2), text=True, bits=4),
    _peers("unilora", "UniLoRA", "UniLoraConfig", {"r": 4, "theta_d_length": 1024},
           (5e-3, 2e-2, 8e-2, 2e-1), text=True, bits=4),
    _peers("vblora", "VB-LoRA", "VBLoRAConfig",
           {"r": 1, "num_vectors": 16, "vector_length": 32, "topk": 2}, (1e-3, 5e-3, 2e-2)),
    _peers("waveft", "WaveFT", "WaveFTConfig", {"n_frequency": 16},
           (3e-3, 1e-2, 5e-2), text=True, bits=4),
    _peers("full", "all attention weights", "full", {}, (5e-5, 2e-4, 8e-4, 2e-3, 5e-3)),
    _peers("equal", "rank 16 everywhere", "svfit", {"r": 16}, SHARES, text=True, bits=4),
    _peers("chosen", "the default's number of values, where gradients are largest", "chosen",
           {"r": 192, "values": DEFAULT_VALUES, "over": 0}, (5e-3, *SHARES), text=True, bits=4),
    _peers("unmasked", "the same, given out over 100 steps (ID3)", "chosen",
           {"r": 192, "values": DEFAULT_VALUES, "over": 100}, (5e-3, *SHARES), text=True, bits=4),
    _peers("weighted", "rank 16 everywhere, bases weighed by gradients (FWSVD)", "weighted",
           {"r": 16}, SHARES, text=True, bits=4),
    _peers("shared", "deltas as a product of two matrices (LoRTA)", "shared",
           {"r": 16, "k": 4}, (1.5e-3, 5e-3, 1.5e-2, 5e-2), text=True),
    _peers("falling", "rank 16 everywhere, weaker with noise (T-LoRA)", "falling",
           {"r": 16, "least": 0.5}, SHARES, text=True, bits=4),
    _trial("plain", "rank 16 everywhere, none of these"),
    _trial("decayed", "deltas that decay", "decayed"),
    _trial("direction", "the word's direction alone (DTI)", "direction"),
    _trial("from-output", "the word starts as an output (Cross-Initialization)", "from-output"),
    _trial("context", "the words around it are held (CoRe)", "context"),
    _trial("photo-words", "a word for each photo, exclusion (ConceptPrism)", "photo-words"),
    _trial("values", "values moved at the word (Perfusion)", "values"),
    _trial("layered", "a word for each layer and noise (P+, NeTI)", "layered"),
)  # fmt: skip
BY_NAME = {method.name: method for method in METHODS}


def sd15_bytes(method: Method, shapes: dict[str, list[tuple[int, int]]], folder: str) -> int | None:
    """Bytes for Stable Diffusion 1.5, without a header; None where that is no sum over projections.

    shapes: (out, in) of its projections, "denoiser" and "text". folder: of its configurations.
    """
    if (
        method.settings is not None
    ):  # of weights that are not here, 99 % of the energy is at most all
        rank = method.settings.get("rank", RANK)
        known = {"rank": "full" if rank.startswith("energy") else rank}
        return estimate_size(folder, TrainConfig(**method.settings | known)).bytes
    if method.adapter in UNSIZED:
        return None
    parts = ["denoiser", "text"] if method.text else ["denoiser"]
    found = [shape for part in parts for shape in shapes[part]] if method.adapter else []
    each = {shape: _values(method, *shape) for shape in set(found)}
    sizes = [each[shape] for shape in found]
    word = word_bytes(method, SD15_TOKEN) if method.word else 0
    return tensor_bytes(sizes, method.bits) + word


def word_bytes(method: Method, width: int) -> int:
    """Bytes of the word's rows, each of so many numbers, in a method's bits."""
    return tensor_bytes([*blocks(method.vectors, width)], method.word_bits)


def _values(method: Method, out: int, inner: int) -> int:
    """Trained values of one projection, counted where the method is applied to it."""
    if method.adapter == "svfit":
        return (
            round(16 * method.options["r"] / RANK_EQUAL) if method.scaled else method.options["r"]
        )
    model = nn.ModuleDict({"attn": nn.ModuleDict({"to_q": nn.Linear(inner, out, bias=False)})})
    if method.adapter == "core":
        return method.options["r"] ** 2
    if method.adapter == "full":
        return out * inner
    model.requires_grad_(False)
    _, parameters = inject(method.adapter, method.options, model, ["to_q"])
    return sum(parameter.numel() for parameter in parameters)


def tensor_bytes(sizes: list[int], bits: int) -> int:
    """Bytes of tensors of these numbers of values, with a scale for each block if in four bits."""
    scales = sum(math.ceil(size / BLOCK) for size in sizes) if bits == 4 else 0
    return math.ceil(sum(sizes) * bits / 8) + 2 * scales


@torch.no_grad()
def round_values(parameter: nn.Parameter, block: int = BLOCK) -> None:
    """Round an adapter's tensor to four bits, block by block."""
    parts = parameter.detach().flatten().split(block)
    held = [torch.from_numpy(round_to_four_bits(part.numpy())) for part in parts]
    parameter.copy_(torch.cat(held).view_as(parameter))
