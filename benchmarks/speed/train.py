"""Claims on the training step, its memory and the full spectrum.

All use one loop: noise, UNet, squared error, backward, AdamW. `frozen` is the base's forward pass
and the backward pass through its activations, from the first transformer block on.

    python -m benchmarks.speed --only train
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import truediv
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.setup import SD15, TOYBOX, Row, lora_config, pipeline, seconds
from svfit_diffusion.adapter.attention import patch_attention
from svfit_diffusion.adapter.tuner import SVFitConfig

SIZES = {SD15: (1, 32), TOYBOX: (4, 16)}  # batch, side of the latents
FULL = (
    "the arithmetic alone is 1.17 (the row on it). The gradient of all singular values takes the "
    "product of a weight's gradient, as full fine-tuning does; deltas change with each step, so "
    "that no sum of weights can be kept; computing in the basis itself would still take 1.13, and "
    "delta = 0 would not be the base to the bit"
)


class Loop:
    """A UNet and how it is trained: "frozen", "lora", or a rank of SVFit."""

    def __init__(self, name: str, way: str, side: int | None = None) -> None:
        batch, own = SIZES[name]
        side = side or own
        self.unet = pipeline(name).unet.requires_grad_(False).train()
        if way == "frozen":
            first = next(m for m in self.unet.modules() if hasattr(m, "norm1") and hasattr(m, "ff"))
            first.norm1.requires_grad_(True)
        elif way == "lora":
            self.unet.add_adapter(lora_config())
        else:
            patch_attention(self.unet, SVFitConfig(r=way))
        self.trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, 1e-4)
        torch.manual_seed(0)
        channels, width = self.unet.config.in_channels, self.unet.config.cross_attention_dim
        self.x = torch.randn(batch, channels, side, side)
        self.times = torch.full((batch,), 500)
        self.states = torch.randn(batch, 77, width)
        self.saved = 0

    def forward(self) -> torch.Tensor:
        """The loss of one step."""
        return F.mse_loss(self.unet(self.x, self.times, self.states).sample, self.x)

    def step(self) -> None:
        """One step of training."""
        self.forward().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def memory(self) -> int:
        """Bytes of the tensors saved for the backward pass, of gradients and of moments."""
        held: dict[int, int] = {}
        weights = {p.untyped_storage().data_ptr() for p in self.unet.parameters()}
        weights |= {b.untyped_storage().data_ptr() for b in self.unet.buffers()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.forward()
        saved = sum(held.values())
        loss.backward()
        return saved + sum(3 * 4 * p.numel() for p in self.trained)


def times(loops: dict[str, Loop], rounds: int) -> dict[str, list[float]]:
    """Seconds per step of each loop, in turn."""
    for loop in loops.values():
        loop.step()
    found: dict[str, list[float]] = {way: [] for way in loops}
    for _ in range(rounds):
        for way, loop in loops.items():
            found[way].append(seconds(loop.step))
    return found


def of_least(function: Callable[..., float], *series: list[float]) -> tuple[float, float, float]:
    """A function of the minimum of each series, with its range over all rounds and both halves.

    Other work on the machine only adds to a time, and is not small compared with the differences.
    """
    parts = [[values[i::step] for values in series] for i, step in ((0, 1), (0, 2), (1, 2))]
    found = [function(*map(min, part)) for part in parts if all(part)]
    return found[0], min(found), max(found)


def share(ours: float, theirs: float, floor: float) -> float:
    """Our time beyond the floor, as a fraction of theirs beyond it."""
    return (ours - floor) / (theirs - floor) if theirs > floor else math.inf


def steps(name: str, rounds: int) -> list[Row]:
    """The rows of one base."""
    loops = {way: Loop(name, way) for way in ("frozen", "16", "lora", "full")}
    frozen, ours, lora, full = times(loops, rounds).values()
    batch, side = SIZES[name]
    note = f"batch {batch}, {side} x {side} latents, {torch.get_num_threads()} threads"
    least = [min(found) for found in (frozen, ours, lora, full)]
    rows = [
        Row(f"training step beyond the frozen base, {name}", "LoRA rank 4", least[1] - least[0],
            least[2] - least[0], *of_least(share, ours, lora, frozen), 0.7, note=note),
        Row(f"training step, {name}", "LoRA rank 4", least[1], least[2],
            *of_least(truediv, ours, lora), None, note=note),
        Row(f"training step, {name}", "the frozen base", least[1], least[0],
            *of_least(truediv, ours, frozen), None, note=note),
        Row(f"rank full, {name}", "rank 16", least[3], least[1],
            *of_least(truediv, full, ours), 1.15, note=note, reason=FULL if name == TOYBOX else ""),
    ]  # fmt: skip
    held = {way: loop.memory() / 1e6 for way, loop in loops.items()}
    ours_more, lora_more = held["16"] - held["frozen"], held["lora"] - held["frozen"]
    ratio = ours_more / lora_more
    rows.append(
        Row(f"training memory beyond the frozen base, {name}", "LoRA rank 4", ours_more, lora_more,
            ratio, ratio, ratio, 1.0, "MB", note)
    )  # fmt: skip
    return rows


def arithmetic(name: str) -> Row:
    """The products of a step with the full spectrum against those of rank 16: the same anywhere."""
    counts = []
    for way in ("full", "16"):
        loop = Loop(name, way)
        with FlopCounterMode(display=False) as counter:
            loop.forward().backward()
        counts.append(counter.get_total_flops() / 1e9)
    ratio = counts[0] / counts[1]
    return Row(f"rank full, arithmetic of a step, {name}", "rank 16", *counts, *(ratio,) * 3, None,
               "GFLOP")  # fmt: skip


def growth(rounds: int) -> dict:
    """Seconds per Toybox step by rank, and by the number of tokens."""
    ranks = ("1", "4", "16", "64", "full")
    found = times({rank: Loop(TOYBOX, rank) for rank in ranks}, rounds)
    by_rank = {"rank": list(ranks), "step": [min(t) for t in found.values()]}
    sides = (16, 24, 32, 48)
    by_side: dict[str, list[Any]] = {"side of the latents": list(sides)}
    for way in ("frozen", "16", "lora"):
        found = times({str(side): Loop(TOYBOX, way, side) for side in sides}, rounds)
        by_side[way if way != "16" else "rank 16"] = [min(t) for t in found.values()]
    return {"training step on Toybox by rank": by_rank, "training step by size": by_side}


def run(quick: bool) -> tuple[list[Row], dict]:
    """All rows and the growth curves."""
    rows = steps(TOYBOX, 1 if quick else 40) + steps(SD15, 1 if quick else 8)
    rows.append(arithmetic(TOYBOX))
    return rows, {} if quick else growth(5)
