"""What `auto` took beside the best of the strategies that it could have taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dpjax.privatize.structured.costs.choice import NEAR_TIE, StrategyChoice


@dataclasses.dataclass(frozen=True)
class BesideBest:
    """The costs of `auto`, divided by those of the best strategies that fit.

    Attributes:
        strategy: what it took.
        time: by the fastest that fits.
        memory: by the smallest of those that are about as fast as the fastest.
        is_timed: whether times were measured; else they are the estimates of `auto`.
    """

    strategy: str
    time: float
    memory: float
    is_timed: bool

    def __str__(self) -> str:
        return (
            f"took {self.strategy}: {self.time:.2f} of the {'' if self.is_timed else 'estimated '}"
            f"time of the fastest that fits, {self.memory:.2f} of the memory of the smallest that "
            "is about as fast"
        )


def compare_auto(
    rows: Mapping[str, Mapping[str, Any]], choice: StrategyChoice, suffix: str = ""
) -> BesideBest | None:
    """Compares the row of `auto` with those of the strategies that hold no more than `auto` may.

    Args:
        rows: by the name of a strategy and the suffix; with `temporary_bytes`, and `time_ratio`
            where times were measured.
        choice: what `auto` took for this shape.
        suffix: of the names of the rows that are compared.

    Returns:
        The comparison; None where `auto` or all strategies that fit were not measured, or none
        fits, so that the smallest was taken.
    """
    own = rows.get("auto" + suffix)
    names = [name for name in choice.costs if name + suffix in rows]
    fitting = [name for name in names if choice.bytes_of(name) <= choice.budget]
    if own is None or not fitting:
        return None
    is_timed = "time_ratio" in own
    times = {
        name: rows[name + suffix]["time_ratio"] if is_timed else choice.time_of(name)
        for name in fitting
    }
    fastest = min(times.values())
    smallest = min(
        rows[name + suffix]["temporary_bytes"]
        for name in fitting
        if times[name] <= NEAR_TIE * fastest
    )
    return BesideBest(
        choice.strategy,
        (own["time_ratio"] if is_timed else choice.time_of(choice.strategy)) / fastest,
        own["temporary_bytes"] / smallest,
        is_timed,
    )
