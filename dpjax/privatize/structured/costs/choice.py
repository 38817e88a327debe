"""`auto`: the fastest strategy that leaves most of a device's memory to the rest of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dpjax.privatize.structured.costs.cost import StrategyCost, strategy_costs
from dpjax.privatize.structured.gradient import GradientProgram

AUTO_SHARE = 16
"""A strategy may hold one part in so many of a device's memory beyond an ordinary step. Parameters,
optimizer and activations need the rest, and a larger microbatch gains more than a faster strategy:
for GPT-2 small on TPU v6e, 32 texts of 256 tokens on each chip, `one_backward` needs five times the
memory of the ordinary step and `two_backwards` 1.06."""

NEAR_TIE = 1.1
"""Estimates whose ratio is at most this say nothing about which strategy is faster, or needs less
memory: on the benchmark's shapes measured ratios of strategies are off the estimated ones by that
much and more."""

# Where estimates agree, what compiled programs need, from least to most: with LoRA and on the
# decoders of the benchmark, `materialize` needs more than `one_backward`.
_BY_COMPILED_MEMORY = ("two_backwards", "one_backward", "materialize")


@dataclasses.dataclass(frozen=True)
class StrategyChoice:
    """What `auto` takes, and by what it was decided.

    Attributes:
        strategy: its name.
        costs: of every strategy for one example, and of the ordinary step as "non_private".
        num_examples: that one device has in memory at once.
        device_memory: bytes of the device.
    """

    strategy: str
    costs: dict[str, StrategyCost]
    num_examples: int
    device_memory: int

    @property
    def budget(self) -> int:
        """Bytes that a strategy may hold beyond an ordinary step."""
        return self.device_memory // AUTO_SHARE

    def bytes_of(self, strategy: str) -> int:
        """What a strategy holds beyond an ordinary step, on one device."""
        return self.costs[strategy].num_bytes * self.num_examples

    def time_of(self, strategy: str) -> float:
        """Multiplications of a strategy beside those of an ordinary step."""
        return self.costs[strategy].operations / max(1, self.costs["non_private"].operations)

    def __str__(self) -> str:
        needs = ", ".join(
            f"{name} {_in_words(self.bytes_of(name))} and {self.time_of(name):.2f} of its time"
            for name in self.costs
            if name != "non_private"
        )
        return (
            f"strategy=auto: {self.strategy}. Beyond an ordinary step with {self.num_examples} "
            f"examples on a device each would hold, by estimate: {needs}. A "
            f"{AUTO_SHARE}th of the device's {_in_words(self.device_memory)} may be used for it, "
            f"{_in_words(self.budget)}"
        )


def choose(gradient: GradientProgram, num_examples: int, device_memory: int) -> StrategyChoice:
    """Chooses the strategy for so many examples on one device.

    Of those that fit, it takes the smallest among those with about the fewest operations; if none
    fits, the smallest.
    """
    costs = strategy_costs(gradient, num_examples)
    strategy = fastest_that_fits(costs, device_memory // AUTO_SHARE // max(1, num_examples))
    return StrategyChoice(strategy, costs, num_examples, device_memory)


def fastest_that_fits(costs: Mapping[str, StrategyCost], most_bytes: int) -> str:
    """Names the strategy to take, given how many bytes of an example it may hold.

    Near-ties in time are decided by memory, and near-ties in memory by what compiled programs need.
    """
    names = [name for name in _BY_COMPILED_MEMORY if costs[name].num_bytes <= most_bytes]
    fewest = min((costs[name].operations for name in names), default=0)
    names = [name for name in names if costs[name].operations <= NEAR_TIE * fewest]
    if not names:
        return min(_BY_COMPILED_MEMORY, key=lambda name: costs[name].num_bytes)
    least = min(costs[name].num_bytes for name in names)
    return next(name for name in names if costs[name].num_bytes <= NEAR_TIE * least)


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
