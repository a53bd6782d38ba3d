"""Why a training ends before its last step: a signal, a report, another process, or a NaN."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .runtime import restore, snapshot

MOST_OVERFLOWS = 20  # in a row; by then 2^16, with which fp16 starts, has been halved away


@contextlib.contextmanager
def interruptible(training: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the training to stop; a second one ends it at once."""

    def ask(number: int, _: Any) -> None:
        training.stopped = "interrupted"
        training.exit_status = 128 + number  # as shells report it: 130 and 143
        signal.signal(number, old[number])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in old:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def share_step(accelerator: Accelerator, loss: Tensor, stopped: bool) -> tuple[float, bool]:
    """The mean of a step's loss [] over all processes, and whether any of them is to stop; the same
    in all of them, in one exchange.
    """
    both = torch.stack([loss, loss.new_tensor(float(stopped))])
    total, stops = accelerator.reduce(both, "sum").tolist()
    return total / accelerator.num_processes, stops > 0


class FiniteGuard:
    """Keeps NaN out of what is trained: clipped gradients, and the last state that was finite."""

    def __init__(
        self, accelerator: Accelerator, parameters: dict[str, Tensor], max_norm: float
    ) -> None:
        self.accelerator, self.parameters, self.max_norm = accelerator, parameters, max_norm
        self.overflows = 0
        self.remember()

    def remember(self) -> None:
        """Keep the parameters as they are: their loss was finite."""
        self.last_finite = snapshot(self.parameters)

    def go_back(self) -> None:
        """Restore the parameters that were kept."""
        restore(self.parameters, self.last_finite)

    def clip_gradients(self) -> bool:
        """Clip the gradients. False where they are not finite, and no step may be made with them.

        In fp16 they overflow now and then: such steps are skipped and the loss is scaled by less.
        """
        norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.max_norm)
        finite = bool(norm.isfinite())
        self.overflows = 0 if finite else self.overflows + 1
        return finite or (self.accelerator.scaler is not None and self.overflows <= MOST_OVERFLOWS)
