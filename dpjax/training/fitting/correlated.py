"""The strategy matrix of a run with correlated noise: found once, and kept for its resumption."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dpjax_accounting import BandedDPSGD

from dpjax.privatize import BandedStrategy, BufferedStrategy, NoiseStrategy
from dpjax.training.devices.lead import from_lead

# What the description of a run calls its strategy.
STRATEGY = "noise_strategy"
_KIND, _HASH = "kind", "sha256"
# A fourth lowers the noise on sums by less than a percent at 10,000 steps.
_NUM_BUFFERS = 3
_KINDS = {"banded": BandedStrategy, "buffered": BufferedStrategy}


def describe_strategy(strategy: NoiseStrategy) -> dict[str, Any]:
    """Returns the kind and the numbers of a strategy, and a hash of them, ready for JSON.

    Example:
        >>> described = describe_strategy(BandedStrategy((1.0, 0.5)))
        >>> described["kind"], described["coefs"], len(described["sha256"])
        ('banded', [1.0, 0.5], 64)
    """
    kind = next(name for name, of in _KINDS.items() if isinstance(strategy, of))
    numbers = {name: list(value) for name, value in dataclasses.asdict(strategy).items()}
    return {_KIND: kind, **numbers, _HASH: _hash_of(numbers)}


def _hash_of(numbers: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def _strategy_from(described: Mapping[str, Any]) -> NoiseStrategy:
    """Returns the strategy that `describe_strategy` described, with the same bits.

    Raises:
        ValueError: it is no such description.
    """
    kind = _KINDS.get(described.get(_KIND, ""))
    try:
        if kind is None:
            raise ValueError(f"kind must be {' or '.join(_KINDS)}, got {described.get(_KIND)!r}")
        numbers = {name: value for name, value in described.items() if name not in (_KIND, _HASH)}
        if described.get(_HASH) != _hash_of(numbers):
            raise ValueError("its numbers are not those that the run was started with")
        return kind(**{name: tuple(value) for name, value in numbers.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"the description of a noise strategy is damaged ({error})") from error


def default_strategy(
    mechanism: BandedDPSGD, stored: Mapping[str, Any] | None, *, is_buffered: bool = False
) -> NoiseStrategy:
    """Returns the strategy of a run that is given none: that of its start, or the optimized one.

    Another machine may find numbers that differ in the last digits. Where several processes train,
    each adds a part of one noise, and so process 0 finds them for all: every process must call it.

    Args:
        mechanism: what the accountant counts.
        stored: what the run was started with, if it resumes. A run of another mechanism is about to
            be refused, and has nothing to give.
        is_buffered: whether it is made of three buffers, for as many bands as steps.

    Raises:
        ImportError: jax_privacy is not installed.
        ValueError: what is stored is damaged.
    """

    def find() -> dict[str, Any]:
        if stored is not None and stored.get("mechanism") == mechanism.to_dict():
            return stored.get(STRATEGY) or {}
        steps = max(mechanism.num_steps, 1)
        if is_buffered:
            return describe_strategy(BufferedStrategy.optimized(steps, _NUM_BUFFERS))
        return describe_strategy(BandedStrategy.optimized(steps, mechanism.bands))

    return _strategy_from(from_lead(find))
