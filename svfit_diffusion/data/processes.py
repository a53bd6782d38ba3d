"""What the processes of a training do together: shared work, and failures that all of them raise.

Where one process worked or failed alone, the others would wait for it in their next exchange until
that times out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

T = TypeVar("T")


def together(accelerator: Accelerator, call: Callable[[], T]) -> list[T]:
    """call() in every process; what it returned in each, in their order.

    An error of a process is raised there; the others raise a ValueError that says it.
    """
    if accelerator.num_processes == 1:
        return [call()]
    result, error = None, None
    try:
        result = call()
    except Exception as caught:  # whatever it is: the others are waiting
        error = caught
    outcomes = gather_object([(result, None if error is None else str(error) or repr(error))])
    if error is not None:
        raise error
    for number, (_, reason) in enumerate(outcomes):
        if reason is not None:
            raise ValueError(f"process {number} of the training failed: {reason}")
    return [result for result, _ in outcomes]


def by_main(accelerator: Accelerator, call: Callable[[], T]) -> T:
    """call() in the main process; what it returned, in all."""
    return together(accelerator, call if accelerator.is_main_process else lambda: None)[0]
