"""Many weights factored side by side, within bounds of memory.

A weight is read when a worker is free, and never before. Each worker is counted with all its
copies (`working_bytes`), and works only while those of all workers together stay within half of the
memory that is available; the largest go first. One worker alone may always work.

The bytes follow from the arrays of truncated_svd.py. A weight [out, in] with m = min(out, in) takes
8 bytes a number in float64, with 4 more for the first, coarse steps of block Krylov; beside it lie
the Krylov space, or the Gram matrix with LAPACK's copy of it and its work (4 m^2), or for the full
spectrum LAPACK's copy, U, V^T and its work (2 out in + 6 m^2). Not counted is what a weight takes
that has no better than LAPACK's SVD at a lower rank: one whose values fall below 1e-6 of the
largest within that rank.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import psutil
from threadpoolctl import threadpool_limits
from torch import Tensor

from .basis import Basis, Rank, factorize
from .truncated_svd import krylov_block, least_rate

SHARE = 0.5  # of the available memory, for all workers together
FLOAT32, FLOAT64 = 4, 8  # bytes


class Job(NamedTuple):
    """A weight to factor: what reads it, its shape [out, in], its rank rule, and its name."""

    read: Callable[[], Tensor]
    shape: tuple[int, int]
    rank: Rank
    name: str = "a weight"


class Memory(NamedTuple):
    """Bytes that factoring takes at most, with so many of the largest weights at once, and with one
    at a time. The bases are in them, twice where they are written.
    """

    most: int
    at_once: int
    alone: int


def factorize_all(jobs: Iterable[Job], limit: int | None = None) -> list[Basis]:
    """factorize() of every job, in their order, one matrix a thread: threaded LAPACK is slower.

    limit: bytes that the workers may take together; default: half of what is available.
    """
    jobs, budget = list(jobs), _Budget(default_limit() if limit is None else limit)

    def work(job: Job) -> Basis:
        with budget.taking(working_bytes(job.shape, job.rank)):
            basis = factorize(job.read(), job.rank, job.name)
            _give_back()
            return basis

    order = sorted(range(len(jobs)), key=lambda i: -working_bytes(*jobs[i][1:3]))
    with threadpool_limits(limits=1), ThreadPoolExecutor(workers()) as pool:
        made = dict(zip(order, pool.map(work, [jobs[i] for i in order]), strict=True))
    return [made[i] for i in range(len(jobs))]


def workers() -> int:
    """The most weights that are factored at a time."""
    return os.cpu_count() or 1


def default_limit() -> int:
    """Bytes that the workers may take together."""
    return int(SHARE * psutil.virtual_memory().available)


def factoring_memory(
    sizes: Iterable[tuple[tuple[int, int], Rank]],
    limit: int | None = None,
    cores: int | None = None,
) -> Memory:
    """The memory to factor weights of these shapes and ranks: here, or within `limit` bytes on so
    many cores.
    """
    sizes, limit = list(sizes), default_limit() if limit is None else limit
    costs = sorted((working_bytes(*size) for size in sizes), reverse=True)
    largest, together = costs[0], costs[: cores or workers()]
    at_once = max(1, sum(total <= limit for total in itertools.accumulate(together)))
    held = sum(basis_bytes(*size) for size in sizes)
    working = max(largest, min(limit, sum(together)))
    return Memory(held + max(working, held), at_once, held + max(largest, held))


def basis_bytes(shape: tuple[int, int], rank: Rank) -> int:
    """Bytes of a basis: U [out, r] and V [in, r] in float32."""
    return FLOAT32 * _most(shape, rank) * sum(shape)


def working_bytes(shape: tuple[int, int], rank: Rank) -> int:
    """Bytes that factoring a weight [out, in] takes at most, from reading it in float32 or less."""
    size, small = math.prod(shape), min(shape)
    r = min(_most(shape, rank) + 1, small)
    triples = 3 * FLOAT64 * r * sum(shape)  # as found, times s, and a residual of them
    if r == small:
        return FLOAT64 * (3 * size + 6 * small**2) + triples
    gram = FLOAT64 * (size + 4 * small**2) + triples
    read = coarse = (FLOAT32 + FLOAT64) * size
    block, fine = krylov_block(r), FLOAT64 * size + triples
    if (rate := least_rate(shape, r)) is not None:
        coarse += _sweep_bytes(shape, block, math.ceil(7 / rate), FLOAT32)
        fine += _sweep_bytes(shape, block, math.ceil(6 / rate), FLOAT64)
    return max(gram, read, coarse, fine)


def _sweep_bytes(shape: tuple[int, int], block: int, steps: int, item: int) -> int:
    """Bytes of a Krylov space of so many blocks: Q, Q W, their products, and a block of each."""
    rows = steps * block
    return item * (rows * sum(shape) + 4 * rows**2 + 3 * block * sum(shape))


def _most(shape: tuple[int, int], rank: Rank) -> int:
    """The most values that a rank rule can ask for."""
    return min(rank, *shape) if isinstance(rank, int) else min(shape)


def _give_back() -> None:
    """Give the system the memory that was freed, where the C library is glibc: it keeps a hole
    beside each basis that stays, as large as the weight, into which the next weight does not fit.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class _Budget:
    """Bytes that workers may take together; a single one may take more."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken, self.changed = limit, 0, threading.Condition()

    @contextlib.contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them."""
        with self.changed:
            self.changed.wait_for(lambda: not self.taken or self.taken + count <= self.limit)
            self.taken += count
        try:
            yield
        finally:
            with self.changed:
                self.taken -= count
                self.changed.notify_all()
