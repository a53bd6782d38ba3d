"""Counts in Prometheus' text form (https://prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

import threading
from collections.abc import Mapping

COUNTERS = {
    "pictures": "Pictures that were generated.",
    "batches": "Batches that they were generated in.",
    "failures": "Pictures that could not be generated.",
    "refused": "Requests that were refused, for what they asked or since the queue was full.",
    "generation_seconds": "Seconds spent on generating.",
    "waiting_seconds": "Seconds that pictures waited in the queue, in all.",
}
GAUGES = {
    "queue_waiting": "Pictures that wait.",
    "queue_room": "Pictures that may wait.",
    "concepts_resident": "Concepts in memory.",
    "memory_bytes": "Bytes of the process in main memory.",
}
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What was counted since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(COUNTERS, 0.0)

    def add(self, name: str, amount: float = 1) -> None:
        """Count."""
        with self._lock:
            self._counts[name] += amount

    def text(self, now: Mapping[str, float]) -> str:
        """All of it. now: the gauges."""
        with self._lock:
            counts = dict(self._counts)
        lines = []
        for kind, names, values in (("counter", COUNTERS, counts), ("gauge", GAUGES, now)):
            for name, says in names.items():
                full = f"svfit_{name}_total" if kind == "counter" else f"svfit_{name}"
                lines += [f"# HELP {full} {says}", f"# TYPE {full} {kind}",
                          f"{full} {values[name]:.10g}"]  # fmt: skip
        return "\n".join(lines) + "\n"
