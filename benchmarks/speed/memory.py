"""Claims on memory: ten concepts on one base, a further one, the basis on disk.

python -m benchmarks.speed --only memory
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed.setup import SD15, TARGETS, Row, concept, empty_cache, lora, pipeline
from svfit_diffusion import load_concept

FURTHER = (
    "16 KB of it are the common vector, and 25 KB the word's four rows and where they start, in "
    "float32; its singular values are 11 KB"
)


def held(pipe: Any) -> float:
    """MB of all tensors of the edited components, counting each storage once."""
    storages = {}
    for part in TARGETS:
        model = getattr(pipe, part)
        for tensor in (*model.parameters(), *model.buffers()):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values()) / 1e6


def sizes(load: Any, pipe: Any, count: int) -> list[float]:
    """MB in addition to the base after 1 .. count loads."""
    empty, found = held(pipe), []
    for index in range(count):
        load(index)
        found.append(held(pipe) - empty)
    return found


def concepts(pipe: Any, file: Path) -> tuple[list[float], float]:
    """MB in addition to the base after 1 .. 10 loads of a file, and of its basis on disk."""

    def load(index: int) -> None:
        load_concept(pipe, file, name=f"c{index}", token=f"word{index}", strength=0.1)

    with empty_cache() as cache:
        found = sizes(load, pipe, 10)
        return found, sum(path.stat().st_size for path in cache.glob("basis-*")) / 1e6


def run(quick: bool) -> tuple[list[Row], dict]:
    """All rows."""
    pipe, adapter = pipeline(SD15), lora(pipeline(SD15))
    ours, disk = concepts(pipe, concept(pipe))
    other = pipeline(SD15)
    theirs = sizes(lambda i: other.load_lora_weights(adapter, adapter_name=f"c{i}"), other, 10)
    more, lora_more = ours[-1] - ours[-2], theirs[-1] - theirs[-2]

    def row(claim: str, against: str, a: float, b: float, goal: float) -> Row:
        share, reason = a / b, FURTHER if "further" in claim else ""
        return Row(claim, against, a, b, share, share, share, goal, "MB", "torch.float32", reason)

    return [
        row("ten concepts, basis included", "ten LoRAs of rank 4", ours[-1], theirs[-1], 0.45),
        row("one further concept", "one further LoRA", more, lora_more, 1 / 300),
        row("basis on disk", "20 MB", disk, 20.0, 1.0),
    ], {}
