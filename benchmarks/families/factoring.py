"""Memory to compute the basis of a base: what `svfit info --memory` says, and what it takes.

Random weights of the true shapes, with spectra that fall, are made when a worker reads them; none
is ever on the disk. By default two of each shape are factored, the largest side by side as far as
memory allows.

    python -m benchmarks.families.factoring [--base "FLUX.2 dev"] [--rank 16] [--each 2]
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import torch

from benchmarks.families.table import BASES, write
from svfit_diffusion.adapter import layout
from svfit_diffusion.adapter.factoring import Job, factoring_memory, factorize_all, working_bytes
from svfit_diffusion.families import skeleton
from svfit_diffusion.generation import size_text

INNER = 64  # directions that stand out of the noise


def shapes(base: str) -> list[tuple[int, int]]:
    """The shapes [out, in] of all projections of a base's denoiser."""
    family, models = skeleton(write(base, Path(tempfile.mkdtemp())))
    plan = layout({family.denoiser: models[family.denoiser]}, {family.denoiser: "both"})
    return [(p.out_features, p.in_features) for p in plan]


def weight(shape: tuple[int, int], seed: int) -> torch.Tensor:
    """A weight [out, in] in bfloat16: noise, and directions of falling size in it."""
    random = torch.Generator().manual_seed(seed)
    found = torch.empty(shape, dtype=torch.bfloat16)
    scale = 0.2 * torch.arange(1, INNER + 1).rsqrt()
    right = torch.randn(INNER, shape[1], generator=random)
    for rows in found.split(64):  # a part at a time, not to need more memory than a file does
        left = torch.randn(len(rows), INNER, generator=random) * scale
        rows.copy_(left @ right + 0.1 * torch.randn(rows.shape, generator=random))
    return found


def resident() -> int:
    """Bytes of this process in memory."""
    return psutil.Process(os.getpid()).memory_info().rss


def main() -> int:
    """Factor, and print what was said and what it took; 1 where that was more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=BASES, default="FLUX.2 dev")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--each", type=int, default=2, help="projections of one shape, at most")
    given = parser.parse_args()
    every = shapes(given.base)
    taken = [
        shape for shape, count in Counter(every).items()
        for _ in range(min(count, given.each))
    ]  # fmt: skip
    jobs = [
        Job(functools.partial(weight, shape, seed), shape, given.rank)
        for seed, shape in enumerate(taken)
    ]
    most, at_once, alone = factoring_memory((shape, given.rank) for shape in taken)
    largest = max(every, key=lambda shape: working_bytes(shape, given.rank))
    before, start = resident(), time.perf_counter()
    factorize_all(jobs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    seconds = time.perf_counter() - start
    print(f"base      {given.base}: {len(every)} projections, the largest {largest}")
    print(f"at once   {sum(2 * a * b for a, b in every) / 1e9:.1f} GB, if all weights were read")
    print(f"said      {size_text(most)}, {at_once} at once ({size_text(alone)} with one)")
    print(f"took      {size_text(peak)} at most, for {len(jobs)} of them in {seconds:.0f} s")
    return int(peak > most)


if __name__ == "__main__":
    sys.exit(main())
