"""factoring.py: many weights side by side, each read when there is room for it."""

import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch

from svfit_diffusion.adapter import factoring
from svfit_diffusion.adapter.basis import factorize
from svfit_diffusion.adapter.factoring import (
    Job,
    basis_bytes,
    factoring_memory,
    factorize_all,
    working_bytes,
)


def weight(out, in_, seed=0, decay=1.0):
    """A float32 matrix whose singular values fall about like 1 / i^decay."""
    random = torch.Generator().manual_seed(seed)
    inner = min(out, in_)
    scale = torch.arange(1, inner + 1) ** -decay
    left = torch.randn(out, inner, generator=random) * scale
    return left @ torch.randn(inner, in_, generator=random) / inner


def test_many_at_once_are_the_same_as_one_by_one():
    weights = [weight(30 + 10 * i, 20, seed=i) for i in range(6)]
    jobs = [Job(lambda w=w: w, tuple(w.shape), 3) for w in weights]
    for basis, w in zip(factorize_all(jobs), weights, strict=True):
        assert torch.equal(basis.U, factorize(w, 3).U)


class Counted:
    """Jobs whose weights count how many of them exist, and the bytes that they were promised."""

    def __init__(self, shapes, monkeypatch, cores=8):
        self.now, self.most, self.lock = 0, 0, threading.Lock()
        self.order, inner = [], factoring.factorize

        def counted(weight, *arguments):
            time.sleep(0.02)
            basis = inner(weight, *arguments)
            with self.lock:
                self.now -= working_bytes(tuple(weight.shape), 3)
            return basis

        monkeypatch.setattr(factoring, "factorize", counted)
        monkeypatch.setattr(factoring, "workers", lambda: cores)
        self.jobs = [Job(lambda s=s: self.read(s), s, 3) for s in shapes]

    def read(self, shape):
        with self.lock:
            self.order.append(shape)
            self.now += working_bytes(shape, 3)
            self.most = max(self.most, self.now)
        return weight(*shape)


def test_no_weight_is_read_before_there_is_room_for_it(monkeypatch):
    shapes = [(40, 30), (60, 50)] * 6
    one = working_bytes((60, 50), 3)
    for limit, least in ((2 * one, 2 * one), (0, one), (10**9, 3 * one)):
        counted = Counted(shapes, monkeypatch)
        factorize_all(counted.jobs, limit)
        assert least <= counted.most <= max(limit, one), limit
        assert len(counted.order) == 12 and counted.order[0] == (60, 50)  # the largest first
        assert counted.most <= 8 * one  # eight workers


def test_a_failure_ends_the_others_that_did_not_begin(monkeypatch):
    counted = Counted([(20, 20)] * 40, monkeypatch, cores=2)
    counted.jobs[1] = Job(lambda: torch.full((20, 20), torch.nan), (20, 20), 3, "the broken one")
    with pytest.raises(ValueError, match="the broken one of shape .*finite numbers"):
        factorize_all(counted.jobs)
    assert len(counted.order) < 40


CASES = [
    ((900, 700), 16, 1.0), ((900, 700), 16, 0.0), ((700, 2000), 16, 0.5), ((800, 800), 300, 0.5),
    ((600, 600), 599, 0.1), ((700, 500), "full", 0.5), ((500, 900), "full", 0.5),
    ((900, 900), 4, 2.0),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "rank", "decay"), CASES)
def test_a_worker_takes_no_more_than_is_said(shape, rank, decay):
    """numpy's arrays are counted, LAPACK's work with them; the weight is torch's own."""
    given = weight(*shape, decay=decay)
    tracemalloc.start()
    try:
        basis = factorize(given, rank)
        peak = tracemalloc.get_traced_memory()[1] + 8 * given.numel()  # and torch's float64 copy
    finally:
        tracemalloc.stop()
    said = working_bytes(shape, rank)
    print(f"{shape} {rank}: {peak / said:.2f} of {said:,}")
    assert 0.3 * said < peak + 4 * given.numel() and peak <= said
    held = sum(m.numel() * m.element_size() for m in (basis.U, basis.V))
    assert held == basis_bytes(shape, rank)


def test_a_spectrum_that_is_asked_for_by_energy_is_counted_in_full():
    assert working_bytes((90, 70), "energy=0.9") == working_bytes((90, 70), "full")


def test_what_is_said_of_a_base():
    """Sizes by hand: two of the three fit, and the bases lie there twice when they are written."""
    sizes = [((3000, 1000), 16)] * 3
    one, held = working_bytes(*sizes[0]), 3 * 4 * 16 * 4000
    assert one == pytest.approx((8 * 3 + 4 * 8) * 1e6, rel=0.1)  # float64, and the Gram matrix
    assert factoring_memory(sizes, limit=2 * one, cores=8) == (held + 2 * one, 2, held + one)
    assert factoring_memory(sizes, limit=10 * one, cores=8) == (held + 3 * one, 3, held + one)
    assert factoring_memory(sizes, limit=10 * one, cores=1) == (held + one, 1, held + one)
    assert factoring_memory(sizes, limit=0, cores=8) == (held + one, 1, held + one)
    many = [((10, 10), 10)] * 1000
    assert factoring_memory(many, cores=1).most >= 2 * 1000 * 4 * 10 * 20
    assert np.isfinite(factoring_memory(sizes).most)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_that_were_factored_leave_nothing_but_their_bases():
    """Thirty of 640 x 640, 98 MB in float64, whose bases are 5 MB."""
    code = (
        "import torch\n"
        "from svfit_diffusion.adapter.factoring import Job, factorize_all\n"
        "def held():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(x.split()[1]) for x in lines if x.startswith('RssAnon')) * 1024\n"
        "def weight():\n"
        "    return torch.randn(640, 640, dtype=torch.float16)\n"
        "first, before = factorize_all([Job(weight, (640, 640), 16)]), held()\n"
        "kept = factorize_all([Job(weight, (640, 640), 16)] * 30)\n"
        "print(held() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(done.stdout) < 40e6, done.stderr
