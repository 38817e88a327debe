"""The noise multiplier that a target ε needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

from dpjax_accounting.engine.privacy_loss import SMALLEST_NOISE_MULTIPLIER, PrivacyLoss
from dpjax_accounting.engine.releases import LARGEST_NOISE_MULTIPLIER
from dpjax_accounting.mechanisms.mechanism import Mechanism
from dpjax_accounting.mechanisms.other_samplings.random_allocation import RandomAllocationDPSGD
from dpjax_accounting.mechanisms.schedule import DPSGDSchedule

# ε is accepted from this share of the target up to the target itself.
_ACCEPTED = 0.999
# The same for a first guess, and where each value takes seconds and the grid jumps.
_ROUGHLY = 0.97
# The factor on the grid's interval with which the guess is refined, in a tenth of the time.
_COARSER = 10.0
# How often the middle is tried instead of where a chord points.
_MIDDLE_EVERY = 5
_MAX_EVALUATIONS = 60

Kind = TypeVar("Kind", bound=Mechanism)


def least_noise(mechanism: Mechanism, target: float, delta: float) -> float:
    """Returns (nearly) the least noise multiplier with which `mechanism` meets `target`.

    Its ε has been computed and lies between 99.9 % and 100 % of the target; of random allocation
    between 97 % and 100 %.

    Args:
        mechanism: with a field `noise_multiplier`, the value of which is ignored; or a schedule.
        target: ε, above 0.
        delta: between 0 and 1.

    Raises:
        ValueError: if no noise multiplier between 0.1 and 1e6 meets the target.
    """

    def real(noise: float) -> float:
        return with_noise(mechanism, noise).epsilon(delta)

    least_share = _ACCEPTED
    if isinstance(mechanism, RandomAllocationDPSGD):
        least_share = _ROUGHLY
        searches = _searches_of_allocation(mechanism, delta)
    else:
        searches = _searches_of_releases(mechanism, delta)
    guess = _Found(noise=1.0, epsilon=math.nan, slope=-1.0)
    for epsilon_of, accepted in (*searches, (real, least_share)):
        guess = _search(epsilon_of, target, guess, accepted)
    if guess.epsilon > target:
        raise ValueError(
            f"target_epsilon={target:g} cannot be met: even a noise multiplier of {guess.noise:g}"
            f" gives epsilon={guess.epsilon:.4g} at delta={delta:g}. Choose a larger target or"
            " delta, or fewer steps."
        )
    if guess.epsilon < least_share * target:
        raise ValueError(
            f"target_epsilon={target:g} is met by every noise multiplier that is accounted for:"
            f" already {guess.noise:g} gives epsilon={guess.epsilon:.4g} at delta={delta:g}."
            " Choose a smaller target or delta, or give a noise multiplier instead."
        )
    return guess.noise


def with_noise(mechanism: Kind, noise_multiplier: float) -> Kind:
    """Returns `mechanism` with another noise multiplier; of a schedule in all segments."""
    if isinstance(mechanism, DPSGDSchedule):
        segments = tuple(
            dataclasses.replace(segment, noise_multiplier=noise_multiplier)
            for segment in mechanism.segments
        )
        return dataclasses.replace(mechanism, segments=segments)
    # Not every mechanism has the field: whoever calls this has checked that this one does.
    fields: dict[str, Any] = {"noise_multiplier": noise_multiplier}
    return dataclasses.replace(mechanism, **fields)


# Functions from noise to about ε, each with the share of the target from which it is near enough.
_Searches = tuple[tuple[Callable[[float], float], float], ...]


def _searches_of_releases(mechanism: Mechanism, delta: float) -> _Searches:
    def loss(noise: float, coarser: float = 1.0) -> PrivacyLoss:
        releases = with_noise(mechanism, noise).releases()
        assert releases is not None
        return PrivacyLoss(releases, coarser)

    def quick(noise: float) -> float:
        return loss(noise).rough_epsilon(delta)

    def coarse(noise: float) -> float:
        return loss(noise, _COARSER).epsilon(delta)

    return ((quick, _ROUGHLY), (coarse, _ACCEPTED))


def _searches_of_allocation(mechanism: RandomAllocationDPSGD, delta: float) -> _Searches:
    def coarse(noise: float) -> float:
        return with_noise(mechanism, noise).rough_epsilon(delta)

    return ((coarse, _ROUGHLY),)


@dataclasses.dataclass(frozen=True)
class _Found:
    noise: float
    epsilon: float
    slope: float  # d log ε / d log noise


def _search(
    epsilon_of: Callable[[float], float], target: float, start: _Found, accepted: float
) -> _Found:
    """Returns where `epsilon_of`, falling in the noise, comes just below `target`.

    If that is nowhere, return the end of the range of noise multipliers that comes closest.

    Args:
        epsilon_of: ε of a noise multiplier.
        target: ε.
        start: where to begin, and the slope there.
        accepted: the share of the target from which ε is near enough.
    """
    goal = math.log(target * (1 + accepted) / 2)
    noise, slope = start.noise, start.slope
    previous = too_little = enough = None
    for tried in range(_MAX_EVALUATIONS):
        epsilon = epsilon_of(noise)
        at_an_end = noise == (
            LARGEST_NOISE_MULTIPLIER if epsilon > target else SMALLEST_NOISE_MULTIPLIER
        )
        point = math.log(noise), math.log(epsilon) if epsilon > 0 else -math.inf
        measured = _slope(previous, point)
        slope = slope if measured is None else measured
        if at_an_end or accepted * target <= epsilon <= target:
            return _Found(noise, epsilon, slope)
        previous = point
        if epsilon > target:
            too_little = point
        else:
            enough = point
        if too_little is None or enough is None:
            log_noise = _step(point, goal, slope)
        else:
            log_noise = _interpolate(too_little, enough, goal, tried)
        noise = min(max(math.exp(log_noise), SMALLEST_NOISE_MULTIPLIER), LARGEST_NOISE_MULTIPLIER)
    raise ArithmeticError(
        f"The search for a noise multiplier that gives epsilon={target:g} stopped at"
        f" {noise:.9g} with {epsilon:.9g}. Choose a slightly different target."
    )


def _slope(first: tuple[float, float] | None, second: tuple[float, float]) -> float | None:
    """Returns the slope between two points; None unless it is finite and falls, as ε must."""
    if first is None or first[0] == second[0]:
        return None
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return slope if -math.inf < slope < 0 else None


def _step(point: tuple[float, float], goal: float, slope: float) -> float:
    """Returns where the tangent meets `goal`, but at most twice and at least half the noise."""
    x, y = point
    # ε = 0 tells only that there is less noise to look for.
    move = (goal - y) / slope if math.isfinite(y) else -math.inf
    return x + min(max(move, -math.log(2)), math.log(2))


def _interpolate(
    too_little: tuple[float, float], enough: tuple[float, float], goal: float, tried: int
) -> float:
    """Returns where the chord meets `goal`; at times the midpoint, so that no chord stalls."""
    (left, high), (right, low) = too_little, enough
    share = 0.5 if tried % _MIDDLE_EVERY == 0 else (high - goal) / (high - low)
    return left + (right - left) * share
