"""One change of concepts at a time: two threads may load onto one pipeline, or onto two that share
their models.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_LOCK = threading.RLock()  # one for all: nothing says which pipelines share which models

P, R = ParamSpec("P"), TypeVar("R")


def one_at_a_time(call: Callable[P, R]) -> Callable[P, R]:
    """The call, waiting while another thread is in any such call."""

    @functools.wraps(call)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _LOCK:
            return call(*args, **kwargs)

    return waiting
