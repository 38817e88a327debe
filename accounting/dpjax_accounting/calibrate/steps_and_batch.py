"""The number of steps, or the expected batch size, that a target ε permits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from dpjax_accounting.calibrate.integer_search import largest_within
from dpjax_accounting.calibrate.noise import checked_steps, checked_target
from dpjax_accounting.delta import validate_delta
from dpjax_accounting.engine.privacy_loss import LARGEST_NUM_STEPS, check_delta, check_noise
from dpjax_accounting.mechanisms.dpsgd import DPSGD

_FIRST_STEPS = 1000
_FIRST_BATCH = 256


def calibrate_steps(
    target_epsilon: float,
    delta: float,
    *,
    num_units: int,
    expected_batch_size: float,
    noise_multiplier: float,
    sampling: str = "poisson",
    unit: str = "record",
    neighboring: str = "add_or_remove_one",
) -> DPSGD:
    """Return the mechanism with the most steps whose ε does not exceed `target_epsilon`.

    Its ε has been computed, and so has that of one more step, which exceeds the target.

    Args:
        target_epsilon: above 0, at most 100.
        delta: between 0 and 1, at least 1e-25.
        num_units: as for :class:`DPSGD`, like the arguments that follow.
        expected_batch_size: as for :class:`DPSGD`.
        noise_multiplier: at least 0.1.
        sampling: as for :class:`DPSGD`.
        unit: as for :class:`DPSGD`.
        neighboring: as for :class:`DPSGD`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range or not supported, if one step exceeds the target
            already, or if 10,000,000 steps do not reach it.

    Warns:
        DeltaWarning: if `delta` is at least 1 / num_units.
    """
    target = checked_target(target_epsilon)
    mechanism = DPSGD(
        num_units=num_units,
        expected_batch_size=expected_batch_size,
        noise_multiplier=noise_multiplier,
        num_steps=1,
        sampling=sampling,
        unit=unit,
        neighboring=neighboring,
    )
    delta = check_delta(validate_delta(delta, mechanism.num_units))
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
    return with_steps(steps)


def calibrate_batch_size(
    target_epsilon: float,
    delta: float,
    *,
    num_units: int,
    noise_multiplier: float,
    num_steps: int,
    sampling: str = "poisson",
    unit: str = "record",
    neighboring: str = "add_or_remove_one",
) -> DPSGD:
    """Return the mechanism with the largest whole batch size whose ε is at most `target_epsilon`.

    Its ε has been computed, and so has that of an expected batch size larger by one, which exceeds
    the target; unless the batch is all units.

    Args:
        target_epsilon: above 0, at most 100.
        delta: between 0 and 1, at least 1e-25.
        num_units: as for :class:`DPSGD`, like the arguments that follow.
        noise_multiplier: at least 0.1.
        num_steps: at least 1.
        sampling: as for :class:`DPSGD`.
        unit: as for :class:`DPSGD`.
        neighboring: as for :class:`DPSGD`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range or not supported, or if an expected batch size of
            1 exceeds the target already.

    Warns:
        DeltaWarning: if `delta` is at least 1 / num_units.
    """
    target = checked_target(target_epsilon)
    mechanism = DPSGD(
        num_units=num_units,
        expected_batch_size=1,
        noise_multiplier=noise_multiplier,
        num_steps=checked_steps(num_steps, "every expected batch size"),
        sampling=sampling,
        unit=unit,
        neighboring=neighboring,
    )
    delta = check_delta(validate_delta(delta, mechanism.num_units))
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
    return with_batch(size)


def _largest(
    mechanism_with: Callable[[int], DPSGD], target: float, delta: float, start: int, highest: int
) -> int:
    """Return the largest number within the target, 0 if none is, beginning with a quick search."""

    def quick(number: int) -> float:
        return mechanism_with(number).rdp_epsilon(delta)

    def real(number: int) -> float:
        return _epsilon(mechanism_with(number), delta)

    guess = largest_within(quick, target, start, 1, highest)
    return largest_within(real, target, guess, 1, highest)


def _epsilon(mechanism: DPSGD, delta: float) -> float:
    """Return ε; infinity where it is refused.

    Everything else was checked before, so that what is refused is a loss too large to account for.
    """
    try:
        return mechanism.epsilon(delta)
    except ValueError:
        return math.inf
