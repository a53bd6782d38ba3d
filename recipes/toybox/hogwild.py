"""Asynchronous training on a few cores: one single-threaded process per core, shared weights.

Each worker draws its own batches and applies its own optimizer to the weights, which lie in
shared memory (Recht et al., "Hogwild!", arXiv 1106.5730). There is no barrier, so a core that
is busy with something else slows one worker only. With `TOYBOX_POLITE=1` all but the first worker
take what time other programs leave.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch.multiprocessing as multiprocessing


def _child(function: Callable, rank: int, parent: int, *args) -> None:
    torch.set_num_threads(1)
    if os.environ.get("TOYBOX_POLITE") and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    function(rank, lambda: os.getppid() == parent, *args)


def run_workers(function: Callable, workers: int, *args) -> None:
    """Run `function(rank, alive, *args)` in `workers` processes; rank 0 is this one.

    `alive()` turns false when the process that started the workers is gone.
    """
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_child, args=(function, rank, os.getpid(), *args), daemon=True)
        for rank in range(1, workers)
    ]
    for process in others:
        process.start()
    function(0, lambda: True, *args)
    for process in others:
        process.join(timeout=60)
