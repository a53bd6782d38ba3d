"""What a first load consists of: the processor's seconds of each part, over all threads, which
other work on the machine changes little.

The functions of the package are timed where they are called, each without those that it calls.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from svfit_diffusion.adapter import cache, factoring, published, truncated_svd
from svfit_diffusion.pipeline import loading, matching

FACTORING, READING = "factoring", "reading the files"
FUNCTIONS = (
    (published.Source, "weight", READING),
    (published, "_find_source", "finding the weights"),
    (published.Source, "fingerprint", "hashing"),
    (factoring, "factorize", FACTORING),
    (truncated_svd, "_accurate", "checking each weight's basis"),
    (factoring, "_give_back", FACTORING),
    (cache, "_write", "writing the cache"),
    (matching, "check_table", "the concept's self-check"),
    (loading, "put_on", "putting the layers in"),
)


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.parts: Counter[str] = Counter()
        self._inner = threading.local()

    def timed(self, function: Callable, part: str) -> Callable:
        """The function, timed, without the timed functions that it calls."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            stack = self._inner.__dict__.setdefault("stack", [])
            stack.append(0.0)
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - start
                inner = stack.pop()
                if stack:
                    stack[-1] += took
                self.parts[part] += took - inner

        return call


@contextlib.contextmanager
def timing() -> Iterator[Clock]:
    """A clock of all parts, during the block."""
    clock, kept = Clock(), [getattr(owner, name) for owner, name, _ in FUNCTIONS]
    for (owner, name, part), function in zip(FUNCTIONS, kept, strict=True):
        setattr(owner, name, clock.timed(function, part))
    try:
        yield clock
    finally:
        for (owner, name, _), function in zip(FUNCTIONS, kept, strict=True):
            setattr(owner, name, function)


def seconds_of_parts(action: Callable[[], Any]) -> tuple[float, dict[str, float]]:
    """The processor's seconds of a call, and of its parts, the largest first; "the rest" is in no
    timed function.
    """
    with timing() as clock:
        start = time.process_time()
        action()
        whole = time.process_time() - start
    parts = dict(clock.parts.most_common())
    return whole, parts | {"the rest": whole - sum(parts.values())}
