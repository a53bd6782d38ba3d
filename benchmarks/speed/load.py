"""Claims on loading: first load, cached load, swap; growth with the rank.

python -m benchmarks.speed --only load
"""

from __future__ import annotations

import itertools
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits

from benchmarks.speed.parts import seconds_of_parts
from benchmarks.speed.setup import (
    SD15,
    TARGETS,
    Row,
    compared,
    concept,
    empty_cache,
    lora,
    one_thread,
    paired,
    pipeline,
    seconds,
)
from svfit_diffusion import load_concept, remove_concept, swap_concept
from svfit_diffusion.adapter.attention import find_projections

RANK = 16

CACHED = "the table of the common vector's self-check takes a fifth of it, from which swaps profit"


def weights(pipe) -> list[torch.Tensor]:
    """The weights that a concept edits, in float32."""
    models = {part: getattr(pipe, part) for part in TARGETS}
    return [
        m.get_submodule(n).weight.detach() for m in models.values() for n in find_projections(m)
    ]


def one_after_another(found: list[torch.Tensor]) -> None:
    """As svdiff-pytorch does it: `torch.linalg.svd` of each weight in turn."""
    for weight in found:
        torch.linalg.svd(weight, full_matrices=False)


def floor(found: list[torch.Tensor], rank: int = RANK) -> None:
    """LAPACK's cheapest exact method: top eigenvectors of Gram matrices, one matrix per thread."""

    def top(weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        matrix = weight.double().numpy()
        gram = matrix.T @ matrix if matrix.shape[1] <= len(matrix) else matrix @ matrix.T
        last = len(gram) - 1
        _, vectors = scipy.linalg.eigh(
            gram, subset_by_index=[last - rank + 1, last], driver="evr", check_finite=False
        )
        return vectors, matrix @ vectors if matrix.shape[1] == len(gram) else matrix.T @ vectors

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(top, found))


def first_load(pipe, file: Path, rounds: int) -> list[Row]:
    """Without a cache: reading files, the basis, checks and patching, against the SVDs alone; in
    the processor's seconds, which do not depend on how well either uses several cores.
    """

    def ours() -> None:
        with empty_cache():
            load_concept(pipe, file, name="rex")

    found, parts = weights(pipe), []
    actions = {"theirs": lambda: one_after_another(found), "floor": lambda: floor(found)}
    times: dict[str, list[float]] = {what: [] for what in ("ours", *actions)}
    with one_thread() as clock:
        for _ in range(rounds):
            whole, of_it = seconds_of_parts(ours)
            times["ours"].append(whole)
            parts.append(of_it)
            remove_concept(pipe, "rex")
            for what, action in actions.items():
                times[what].append(seconds(action, clock))
    return first_load_rows(times, parts)


def first_load_rows(times: dict[str, list[float]], parts: list[dict[str, float]]) -> list[Row]:
    """The rows of times that were measured in turn, and of the parts of ours."""
    svd, floors = "SVD of each weight in turn", "top eigenvectors of the Gram matrices"
    ours = times["ours"]
    rows = [
        compared("first load, one core", svd, ours, times["theirs"], 1 / 3),
        compared("first load, one core, over the floor", floors, ours, times["floor"], 1.3),
    ]
    return rows + [
        compared(f"first load, one core: {part}", "all of it", [one[part] for one in parts], ours,
                 None)
        for part in parts[0]
    ]  # fmt: skip


def cached_load(pipe, file: Path, adapter: Path, rounds: int) -> Row:
    """A file on a base with a cached basis, checks included, against diffusers' LoRA loader."""
    return paired(
        "load, basis cached",
        "load_lora_weights, rank 4",
        lambda: load_concept(pipe, file, name="rex"),
        lambda: pipe.load_lora_weights(adapter, adapter_name="lora"),
        1.0,
        rounds,
        (lambda: remove_concept(pipe, "rex"), pipe.unload_lora_weights),
        reason=CACHED,
    )


def swaps(pipe, files: list[Path], adapters: list[Path], rounds: int) -> list[Row]:
    """Another concept in place of a loaded one, against two ways to do that with LoRAs."""
    load_concept(pipe, files[0], name="rex")
    queue = itertools.cycle(files[::-1])

    def ours() -> None:
        swap_concept(pipe, "rex", next(queue))

    other = pipeline(SD15)
    other.load_lora_weights(adapters[0], adapter_name="lora")

    def reload() -> None:
        other.unload_lora_weights()
        other.load_lora_weights(adapters[1], adapter_name="lora")

    rows = [paired("swap", "unload and load of a LoRA", ours, reload, 0.1, rounds)]
    other.unload_lora_weights()
    # diffusers cannot hot-swap text encoders, so the LoRA here has fewer projections than ours
    lean = [lora(other, 4, seed, text=False) for seed in (0, 1)]
    other.enable_lora_hotswap(target_rank=4)
    other.load_lora_weights(lean[0], adapter_name="lora")
    turns = itertools.cycle(lean[::-1])
    rows.append(
        paired("swap", "diffusers' hot swap of a LoRA without text encoder", ours,
               lambda: other.load_lora_weights(next(turns), adapter_name="lora", hotswap=True),
               0.1, rounds)
    )  # fmt: skip
    remove_concept(pipe, "rex")
    return rows


def growth(pipe, rounds: int) -> dict:
    """Median seconds of the first and of a cached load, by rank."""
    found: dict[str, list] = {"rank": [], "first": [], "cached": []}
    for rank in (1, 4, 16, 64, 256, "full"):
        file = concept(pipe, rank, common=0)
        times = {"first": [], "cached": []}
        with empty_cache():
            for kind in ("first", *("cached",) * rounds):
                times[kind].append(seconds(lambda file=file: load_concept(pipe, file, name="rex")))
                remove_concept(pipe, "rex")
        found["rank"].append(str(rank))
        for kind, values in times.items():
            found[kind].append(statistics.median(values))
    return found


def run(quick: bool) -> tuple[list[Row], dict]:
    """All rows and the growth curves."""
    rounds = 1 if quick else 5
    pipe = pipeline(SD15)
    files = [concept(pipe, seed=seed) for seed in (0, 1)]
    adapters = [lora(pipe, 4, seed) for seed in (0, 1)]
    rows = first_load(pipe, files[0], 1 if quick else 3)
    rows.append(cached_load(pipe, files[0], adapters[0], rounds))
    rows += swaps(pipe, files, adapters, rounds)
    return rows, {} if quick else {"load": growth(pipe, 2)}
