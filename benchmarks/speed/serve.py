"""Claims on many concepts at once: memory, adding, switching, batches; beside LoRAs in PEFT.

python -m benchmarks.speed --only serve

The concepts have the default's ranks in four bits, and a word of one row. As many LoRAs of rank 4
are loaded as fit into LORA_SECONDS; their rows say how many.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.speed.setup import (
    SD15,
    TARGETS,
    TOYBOX,
    Row,
    concept,
    lora,
    one_thread,
    paired,
    pipeline,
    random_values,
    seconds,
)
from svfit_diffusion import ConceptPool, read_concept, write_concept
from svfit_diffusion.adapter import check_table, measure
from svfit_diffusion.concept import blocks
from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline.matching import check_layout
from svfit_diffusion.pipeline.verification import basis_of

COUNT, FEW, SWITCHES = 1_000, 10, 10_000
LORA_SECONDS = 120  # of loading LoRAs
STEPS = {SD15: 1, TOYBOX: 8}
SIDES = {SD15: 256, TOYBOX: 128}
BATCH = 8


def files(pipe: Any, folder: Path, count: int, rank: int | str = 16) -> list[Path]:
    """Concept files as by default, or of another rank, in four bits; each of values of its own."""
    first = read_concept(concept(pipe, rank, packed=True))
    models, family = {part: getattr(pipe, part) for part in TARGETS}, recognise(pipe)
    plan = check_layout(first, models)
    table = check_table(first, plan, basis_of(plan, first.ranks, models, family, {}))
    found, (rows, width) = [], first.trigger_shape["text_encoder"]
    for seed in range(count):
        random = np.random.default_rng(seed)
        made = replace(
            first,
            deltas=random_values(random, first.ranks, True),
            common=random_values(random, blocks(1, first.common_size), True),
            trigger_rows=random_values(random, blocks(rows, width), True),
        )
        made = replace(made, check=measure(made.edit_values, table))
        found.append(write_concept(made, folder / f"c{seed}.safetensors"))
    return found


def resident() -> float:
    """MB of this process in main memory."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def size_of_each(pipe: Any, paths: list[Path]) -> float:
    """MB of each concept but the first, of which all share what they have in common: of all that
    Python and numpy allocate, since the process would take what it has freed before.
    """
    pool = ConceptPool(pipe, name="counted")
    pool.add(paths[0])
    gc.collect()
    tracemalloc.start()
    for path in paths[1:]:
        pool.add(path)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / 1e6 / (len(paths) - 1)


def seconds_alone(action: Any) -> float:
    """Seconds of one call, without collecting garbage first."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def switching(pool: ConceptPool, names: list[str], rounds: int) -> list[float]:
    """Seconds of each switch from one concept to the next."""
    turns = (names[i % len(names)] for i in range(rounds))
    return [seconds_alone(partial(pool.set_concepts, {name: 0.8})) for name in turns]


def loras(pipe: Any, limit: float) -> Iterator[tuple[float, float, float]]:
    """For one LoRA after the other, until the time is up: MB held, seconds of load and switch."""
    adapter, end = lora(pipe), time.monotonic() + limit
    before, number = resident(), 0
    while time.monotonic() < end and number < COUNT:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name = f"c{number}"
            load = seconds_alone(partial(pipe.load_lora_weights, adapter, adapter_name=name))
            switch = seconds_alone(partial(pipe.set_adapters, [name], [0.8]))
        number += 1
        yield resident() - before, load, switch


def resident_rows(quick: bool) -> tuple[list[Row], dict]:
    """The rows on a thousand concepts, and the growth curves with their number."""
    count, rounds = (20, 20) if quick else (COUNT, 100)
    pipe, some = pipeline(SD15), FEW
    with tempfile.TemporaryDirectory() as folder:
        paths = files(pipe, Path(folder), count)
        small, pool = ConceptPool(pipe, name="small"), ConceptPool(pipe)
        small.add(paths[0], "first")  # what all of a kind share is checked with the first
        few = switching_pool(small, paths[:some])
        pool.add(paths[0])
        times = [seconds_alone(partial(pool.add, path)) for path in paths[1:]]
        each_ours = size_of_each(pipe, paths)
        names = list(pool)
    few_times = switching(small, few, rounds)
    small.close()
    many_times = switching(pool, names, rounds)
    before = resident()
    switching(pool, names, 50 if quick else SWITCHES)
    leaked = resident() - before
    pool.close()
    found = list(loras(pipeline(SD15), 5 if quick else LORA_SECONDS))
    alone, each = found[0], (found[-1][0] - found[0][0]) / max(1, len(found) - 1)
    median, last = statistics.median, len(found)
    note = f"{count} concepts, {last} LoRAs in {LORA_SECONDS} s"
    add = median(times[-10:]), median(times[:10])
    return [
        row("memory of a concept, words included", "50 KB", each_ours, 0.05, 1.0, "MB", note),
        row("one further concept in a pool", f"one further LoRA, of {last}", each_ours, each,
            1 / 300, "MB", note),
        row(f"adding number {count}", "adding the first ten", *add, 1.2, note=note),
        row(f"adding number {count}", f"LoRA number {last}", add[0], found[-1][1], None, note=note),
        row(f"set_concepts among {count}", "10 ms", median(many_times), 0.01, 1.0, note=note),
        row(f"set_concepts among {count}", f"among {some}", median(many_times), median(few_times),
            1.05, note=note),
        row(f"set_concepts among {count}", f"set_adapters among {last} LoRAs", median(many_times),
            found[-1][2], None, note=note),
        row("set_adapters of a LoRA", f"number {last} against number 1", found[-1][2], alone[2],
            None, note=note),
        row(f"memory after {SWITCHES} switches", "2 MB", max(leaked, 0), 2.0, 1.0, "MB", note),
    ], curves(times, found)  # fmt: skip


def switching_pool(pool: ConceptPool, paths: list[Path]) -> list[str]:
    """A pool with these files too; the names of all."""
    for path in paths:
        pool.add(path)
    return list(pool)


def row(claim: str, against: str, ours: float, theirs: float, goal: float | None,
        unit: str = "s", note: str = "") -> Row:  # fmt: skip
    """A row whose ratio was measured once."""
    return Row(claim, against, ours, theirs, *(ours / theirs,) * 3, goal, unit, note)


def curves(times: list[float], found: list) -> dict:
    """Growth with the number of concepts and of LoRAs."""
    marks = [n for n in (1, 3, 10, 30, 100, 300, len(times)) if n <= len(times)]
    middle = [statistics.median(times[max(0, n - 10) : n]) for n in marks]
    ours = {"concepts": marks, "adding one": middle}
    marks = [n for n in (1, 3, 10, 30, 100, 300, len(found)) if n <= len(found)]
    theirs = {
        "LoRAs": marks,
        "adding one": [found[n - 1][1] for n in marks],
        "set_adapters": [found[n - 1][2] for n in marks],
    }
    return {"concepts in a pool": ours, "LoRAs in PEFT": theirs}


def batches(name: str, rounds: int, clock: Callable[[], float] = time.perf_counter) -> Row:
    """Eight pictures with a concept each, against eight with the same."""
    pipe = pipeline(name)
    with tempfile.TemporaryDirectory() as folder:
        pool = ConceptPool(pipe)
        for path in files(pipe, Path(folder), BATCH):
            pool.add(path)
    names = list(pool)

    def draw(concepts: list[dict[str, float]]) -> None:
        pool(["a photo of sks dog"] * BATCH, concepts, num_inference_steps=STEPS[name],
             height=SIDES[name], width=SIDES[name], output_type="latent",
             generator=[torch.Generator().manual_seed(i) for i in range(BATCH)])  # fmt: skip

    return paired(
        f"eight pictures, a concept each, {name}",
        "all with one concept",
        lambda: draw([{name: 0.8} for name in names]),
        lambda: draw([{names[0]: 0.8}] * BATCH),
        1.05,
        rounds,
        note=f"{SIDES[name]} px, {STEPS[name]} steps, {torch.get_num_threads()} threads",
        clock=clock,
    )


def by_rank(rounds: int) -> dict:
    """Seconds of a Toybox batch of eight concepts, by their rank."""
    pipe = pipeline(TOYBOX)
    found: dict[str, list] = {"rank": [], "eight pictures, four steps": [], "set_concepts": []}
    for rank in (1, 4, 16, 64):
        with tempfile.TemporaryDirectory() as folder:
            pool = ConceptPool(pipe, folder)
            files(pipe, Path(folder), BATCH, rank)
            names = list(pool)
            wanted = {"num_inference_steps": 4, "output_type": "latent"}
            batch = ["a photo of sks dog"] * BATCH, [{name: 0.8} for name in names]
            made = [seconds(partial(pool, *batch, **wanted)) for _ in range(rounds)]
            found["rank"].append(rank)
            found["eight pictures, four steps"].append(min(made))
            found["set_concepts"].append(min(switching(pool, names, 20)))
        pool.close()
    return {"a batch of eight on Toybox": found}


def run(quick: bool) -> tuple[list[Row], dict]:
    """All rows and the growth curves."""
    rows, growth = resident_rows(quick)
    with one_thread() as clock:
        rows.append(batches(TOYBOX, 1 if quick else 21, clock))
    rows.append(batches(SD15, 1 if quick else 3))
    return rows, {} if quick else growth | by_rank(3)
