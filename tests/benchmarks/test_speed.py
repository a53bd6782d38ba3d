"""The table of speed: ranges that narrow with more rounds, and what is said of a goal."""

import pytest
from scipy.stats import binom

from benchmarks.speed.__main__ import met, table
from benchmarks.speed.setup import compared, interval


@pytest.mark.parametrize("count", [6, 7, 9, 12, 25, 41])
def test_the_median_is_in_the_interval_with_95_percent(count):
    """The sign test, by scipy; a narrower one would not do."""
    low, high = interval(range(count, 0, -1))
    assert low + high == count + 1  # as many values below it as above
    assert 1 - 2 * binom.cdf(low - 1, count, 0.5) >= 0.95
    assert 1 - 2 * binom.cdf(low, count, 0.5) < 0.95


def test_of_few_values_the_least_and_the_largest():
    assert interval([3.0]) == (3.0, 3.0)
    assert interval([2.0, 5.0, 1.0]) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.8, 0.9, "yes"), (0.9, 1.1, "not distinguishable: why"), (1.1, 1.2, "**no**: why")],
)
def test_a_goal_is_met_where_all_of_the_range_is(low, high, said):
    row = {"low": low, "high": high, "goal": 1.0, "reason": "why"}
    assert met(row) == said
    assert met(row | {"goal": None}) == "-"
    row = compared("a", "b", [low, high], [1.0, 1.0], 1.0, reason="why").as_dict()
    assert table([row]).endswith(f"| <= 1 | {said} |\n")
