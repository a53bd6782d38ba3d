"""Growth of loading, switching and generating: with the rank, and with the tokens of the word.

python -m benchmarks.speed --only grow

On Toybox, whose projections have at most 192 values. How they grow with the number of concepts is
measured by draw.py and serve.py. The least of several calls in one thread, in the processor's
seconds, to which other work on the machine adds least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.speed.setup import TOYBOX, Row, concept, one_thread, pipeline, seconds
from svfit_diffusion import ConceptPool, load_concept, read_concept, remove_concept
from svfit_diffusion.concept import Concept

RANKS = (1, 4, 16, 64, "full")
TOKENS = (1, 2, 4, 8, 16)
STEPS = 4


def with_tokens(made: Concept, count: int) -> Concept:
    """A concept whose word has so many tokens, of random rows."""
    ((part, (_, width)),) = made.trigger_shape.items()
    rows = 0.05 * np.random.default_rng(count).standard_normal(count * width)
    return replace(made, trigger_rows=rows.astype(np.float16), trigger_shape={part: (count, width)})


def measured(pipe: Any, made: Concept, rounds: int) -> dict[str, float]:
    """Least seconds of a load from a cached basis, of a switch between two concepts of this kind,
    and of a picture.
    """
    with one_thread() as clock:
        return _measured(pipe, made, rounds, partial(seconds, clock=clock))


def _measured(pipe: Any, made: Concept, rounds: int, timed: Callable) -> dict[str, float]:
    other = replace(made, deltas=-made.deltas, check=tuple(-c for c in made.check))
    load_concept(pipe, made, name="rex")  # the basis is cached from here on
    remove_concept(pipe, "rex")
    times: dict[str, list[float]] = {"load": [], "switch": [], "generate": []}
    for _ in range(rounds):
        times["load"].append(timed(lambda: load_concept(pipe, made, name="rex")))
        remove_concept(pipe, "rex")
    pool = ConceptPool(pipe)
    names = [pool.add(one, name) for one, name in ((made, "one"), (other, "two"))]
    for name in names * 5 * rounds:
        times["switch"].append(timed(partial(pool.set_concepts, {name: 0.8})))
    for seed in range(rounds):
        generator = torch.Generator().manual_seed(seed)
        draw = partial(
            pipe, "a photo of sks dog", num_inference_steps=STEPS, output_type="latent",
            generator=generator,
        )  # fmt: skip
        times["generate"].append(timed(draw))
    pool.close()
    return {what: min(found) for what, found in times.items()}


def panels(
    pipe: Any, label: str, values: Iterable, make: Callable[[Any], Concept], rounds: int
) -> dict:
    """A curve for each of loading, switching and generating, by some property of a concept."""
    values = list(values)
    found = [measured(pipe, make(value), rounds) for value in values]
    titles = {
        "load": "a load, basis cached",
        "switch": "set_concepts in a pool",
        "generate": f"a picture, {STEPS} steps",
    }
    return {
        f"Toybox: {what} by {label}": {
            label: [str(value) for value in values],
            titles[what]: [one[what] for one in found],
        }
        for what in titles
    }


def run(quick: bool) -> tuple[list[Row], dict]:
    """No rows; the growth curves."""
    pipe, rounds = pipeline(TOYBOX), 1 if quick else 7
    plain = read_concept(concept(pipe, 16))
    by_rank = panels(pipe, "rank", RANKS, lambda r: read_concept(concept(pipe, r)), rounds)
    by_tokens = panels(pipe, "tokens of the word", TOKENS, lambda n: with_tokens(plain, n), rounds)
    return [], by_rank | by_tokens
