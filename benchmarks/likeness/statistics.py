"""Fidelity from stored measures, with intervals over subjects.

A reader generalises to other subjects, so subjects are drawn anew; the trainings, prompts and seeds
are as they are. The scale's own error is carried along: for each drawing, the base's pictures and
the true pictures of each subject are drawn anew as well, the same for all methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES, LEVEL = 4000, 95
Triple = tuple[float, float, float]  # mean, lower and upper bound


@dataclass(frozen=True)
class Goal:
    """A comparison that was written down before: one method minus another, both with the same help
    unless `unlike`. margin: how much worse still counts as no worse. primary: the one that decides.
    """

    one: str
    other: str
    margin: float = -0.02
    primary: bool = False
    unlike: bool = False


GOALS = (
    Goal("default", "lora-4-help", primary=True),
    Goal("default", "lora-8-help"),
    Goal("default", "unilora"),
    Goal("default", "ti"),
    Goal("default", "default-1"),
    Goal("default", "rank-16-4"),
    Goal("default", "lora-4-averaged"),
    Goal("tiniest", "lora-4", unlike=True),
    Goal("paper-help", "lora-8-help"),
    Goal("paper", "lora-8"),
)


def verdict(difference: Triple, margin: float) -> str:
    """What an interval of a difference says; one that crosses its bounds says nothing."""
    _, low, high = difference
    if low > 0:
        return "better"
    if high < 0:
        return "worse, by less than the margin" if low >= margin else "worse"
    return "no worse" if low >= margin else "not distinguished"


class Measures:
    """Results of one split: each method's closeness by subject, and the subjects' scales."""

    def __init__(self, results: list[dict], scales: dict[str, dict], seed: int = 0) -> None:
        found: dict[str, dict[str, list]] = {}
        for entry in results:
            job = entry["job"]
            runs = found.setdefault(job["method"], {}).setdefault(job["subject"], [])
            runs.append(float(np.mean(entry["result"]["near"])))
        self.near = {m: {s: np.mean(runs) for s, runs in by.items()} for m, by in found.items()}
        self.base = {s: np.mean(scale["base"], 0) for s, scale in scales.items()}  # of each seed
        self.real = {s: np.mean(scale["real"], 0) for s, scale in scales.items()}  # of each view
        self.near["decoded"] = {s: np.mean(scale["decoded"]) for s, scale in scales.items()}
        self.subjects = list(scales)
        rng = np.random.default_rng(seed)
        self.order = rng.random((RESAMPLES, len(self.subjects)))
        self.drawn = {s: (_drawn(self.base[s], rng), _drawn(self.real[s], rng)) for s in scales}

    def fidelity(self, method: str) -> dict[str, float]:
        """Subject -> fidelity: 0 is the base, 1 another true picture."""
        zero, one = (
            {s: v.mean() for s, v in part.items()} for part in (self.base, self.real)
        )  # fmt: skip
        near = self.near[method]
        return {s: (near[s] - zero[s]) / (one[s] - zero[s]) for s in self.subjects if s in near}

    def mean(self, method: str) -> Triple:
        """Of the subjects that were measured."""
        values = self.fidelity(method)
        return self._interval(values, lambda s, zero, one: self.near[method][s] - zero)

    def difference(self, one: str, other: str) -> Triple:
        """One method minus another, on the subjects that both have."""
        first, second = self.fidelity(one), self.fidelity(other)
        values = {s: first[s] - second[s] for s in first if s in second}
        return self._interval(values, lambda s, *_: self.near[one][s] - self.near[other][s])

    def _interval(self, values: dict[str, float], over) -> Triple:
        """values: of each subject. over: what is divided by a drawn scale: (subject, zero, one)."""
        columns = []
        for subject in values:
            zero, one = self.drawn[subject]
            columns.append(np.broadcast_to(over(subject, zero, one) / (one - zero), RESAMPLES))
        places = (self.order[:, : len(columns)] * len(columns)).astype(int)
        means = np.take_along_axis(np.stack(columns, 1), places, 1).mean(1)
        low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
        return float(np.mean(list(values.values()))), float(low), float(high)


def _drawn(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of values drawn with replacement: [RESAMPLES]."""
    return values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
