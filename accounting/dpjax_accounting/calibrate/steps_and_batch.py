"""The number of steps, or the expected batch size, that a target ε permits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from dpjax_accounting.calibrate.integer_search import largest_within
from dpjax_accounting.engine.privacy_loss import LARGEST_NUM_STEPS, check_noise
from dpjax_accounting.mechanisms.dpsgd import DPSGD

_FIRST_STEPS = 1000
_FIRST_BATCH = 256


def most_steps(mechanism: DPSGD, target: float, delta: float) -> int:
    """Returns the most steps with which `mechanism` meets `target`.

    Its ε has been computed, and so has that of one more step, which exceeds the target.

    Args:
        mechanism: with one step.
        target: ε, above 0.
        delta: between 0 and 1.

    Raises:
        ValueError: if the noise multiplier is below 0.1, one step exceeds the target already, or
            10,000,000 steps do not reach it.
    """
    check_noise(mechanism.noise_multiplier)

    def with_steps(steps: int) -> DPSGD:
        return dataclasses.replace(mechanism, num_steps=steps)

    steps = _largest(with_steps, target, delta, _FIRST_STEPS, LARGEST_NUM_STEPS)
    if steps == 0:
        raise ValueError(
            f"target_epsilon={target:g} cannot be met: the nearest is one step, which gives"
            f" epsilon={mechanism.epsilon(delta):.4g} at delta={delta:g}. Choose a larger target,"
            " delta or noise multiplier, or a smaller expected batch size."
        )
    if steps == LARGEST_NUM_STEPS:
        raise ValueError(
            f"target_epsilon={target:g} is met by every number of steps that is accounted for:"
            f" even {steps:,} give epsilon={with_steps(steps).epsilon(delta):.4g} at"
            f" delta={delta:g}. Choose a smaller target or delta, or give a number of steps"
            " instead."
        )
    return steps


def largest_batch(mechanism: DPSGD, target: float, delta: float) -> int:
    """Returns the largest whole expected batch size with which `mechanism` meets `target`.

    Its ε has been computed, and so has that of an expected batch size larger by one, which exceeds
    the target; unless the batch is all units.

    Args:
        mechanism: with an expected batch size of 1.
        target: ε, above 0.
        delta: between 0 and 1.

    Raises:
        ValueError: if the noise multiplier is below 0.1, there are too many steps to account for,
            or an expected batch size of 1 exceeds the target already.
    """
    check_noise(mechanism.noise_multiplier)
    if mechanism.num_steps > LARGEST_NUM_STEPS:
        mechanism.epsilon(delta)  # Says that so many steps are not accounted for.

    def with_batch(size: int) -> DPSGD:
        return dataclasses.replace(mechanism, expected_batch_size=size)

    size = _largest(with_batch, target, delta, _FIRST_BATCH, mechanism.num_units)
    if size == 0:
        raise ValueError(
            f"target_epsilon={target:g} cannot be met: the nearest is an expected batch size of 1,"
            f" which gives epsilon={_epsilon(mechanism, delta):.4g} at delta={delta:g}. Choose a"
            " larger target, delta or noise multiplier, or fewer steps."
        )
    return size


def _largest(
    mechanism_with: Callable[[int], DPSGD], target: float, delta: float, start: int, highest: int
) -> int:
    """Returns the largest number within the target, 0 if none is, beginning with a quick search."""

    def quick(number: int) -> float:
        return mechanism_with(number).rdp_epsilon(delta)

    def real(number: int) -> float:
        return _epsilon(mechanism_with(number), delta)

    guess = largest_within(quick, target, start, 1, highest)
    return largest_within(real, target, guess, 1, highest)


def _epsilon(mechanism: DPSGD, delta: float) -> float:
    """Returns ε; infinity where it is refused.

    Everything else was checked before, so that what is refused is a loss too large to account for.
    """
    try:
        return mechanism.epsilon(delta)
    except ValueError:
        return math.inf
