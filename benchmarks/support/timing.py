"""Timing of things that take turns, so that a drift of the machine meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

_Name = TypeVar("_Name", bound=Hashable)


def time_in_turns(
    runs: Mapping[_Name, Callable[[], object]], repeats: int
) -> dict[_Name, list[float]]:
    """Calls each run once to warm up, then all of them `repeats` times in turn.

    Every round starts with the next of them: none always follows the same one.

    Args:
        runs: by name; each returns when what it computes is there.
        repeats: rounds that are timed.

    Returns:
        The seconds of each round by name.
    """
    for run in runs.values():
        run()
    names = list(runs)
    seconds: dict[_Name, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """Returns the median of the ratios of rounds, seconds by seconds of the base."""
    return statistics.median(own / other for own, other in zip(seconds, base, strict=True))


def spread_of(seconds: Sequence[float]) -> float:
    """Returns the distance of the quartiles divided by the median; 0 of fewer than two numbers."""
    if len(seconds) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return (upper - lower) / middle
