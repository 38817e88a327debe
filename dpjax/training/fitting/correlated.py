"""The strategy matrix of a run with correlated noise: found once, and kept for its resumption."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from dpjax_accounting import BandedDPSGD

from dpjax.privatize import BandedStrategy, BufferedStrategy, NoiseStrategy

# What the description of a run calls its strategy.
STRATEGY = "noise_strategy"
_KIND = "kind"
_KINDS = {"banded": BandedStrategy, "buffered": BufferedStrategy}


def describe_strategy(strategy: NoiseStrategy | None) -> dict[str, Any] | None:
    """Returns the kind and the numbers of a strategy, ready for JSON; None for none.

    Example:
        >>> describe_strategy(BandedStrategy((1.0, 0.5)))
        {'kind': 'banded', 'coefs': [1.0, 0.5]}
    """
    if strategy is None:
        return None
    kind = next(name for name, of in _KINDS.items() if isinstance(strategy, of))
    numbers = {name: list(value) for name, value in dataclasses.asdict(strategy).items()}
    return {_KIND: kind, **numbers}


def _strategy_from(described: Mapping[str, Any]) -> NoiseStrategy:
    """Returns the strategy that `describe_strategy` described, with the same bits.

    Raises:
        ValueError: it is no such description.
    """
    kind = _KINDS.get(described.get(_KIND, ""))
    try:
        if kind is None:
            raise ValueError(f"kind must be {' or '.join(_KINDS)}, got {described.get(_KIND)!r}")
        return kind(**{name: tuple(value) for name, value in described.items() if name != _KIND})
    except (TypeError, ValueError) as error:
        raise ValueError(f"the description of a noise strategy is damaged ({error})") from error


def _found_once(search: Callable[[], NoiseStrategy]) -> NoiseStrategy:
    """Returns what a search finds; where several processes train, what that of process 0 finds.

    Another machine may find numbers that differ in the last digits, and all processes must add
    parts of one noise. Every process must call it.
    """
    if jax.process_count() == 1:
        return search()
    from jax.experimental import multihost_utils

    said = b""
    if jax.process_index() == 0:
        said = json.dumps(describe_strategy(search())).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    own = np.frombuffer(said.ljust(size)[:size], np.uint8)
    heard = np.asarray(multihost_utils.broadcast_one_to_all(own)).astype(np.uint8)
    return _strategy_from(json.loads(heard.tobytes()))


def default_strategy(
    mechanism: BandedDPSGD, stored: Mapping[str, Any] | None, *, is_buffered: bool = False
) -> NoiseStrategy:
    """Returns the strategy of a run that is given none: that of its start, or the optimized one.

    Args:
        mechanism: what the accountant counts.
        stored: what the run was started with, if it resumes. A run of another mechanism is about to
            be refused, and has nothing to give.
        is_buffered: whether it is made of buffers, for as many bands as steps.

    Raises:
        ImportError: jax_privacy is not installed.
        ValueError: what is stored is damaged.
    """
    if stored is not None and stored.get("mechanism") == mechanism.to_dict():
        return _strategy_from(stored.get(STRATEGY) or {})
    steps = max(mechanism.num_steps, 1)
    if is_buffered:
        return _found_once(lambda: BufferedStrategy.optimized(steps))
    return _found_once(lambda: BandedStrategy.optimized(steps, mechanism.bands))
