"""The noise multiplier that a target ε needs."""

from __future__ import annotations

import dataclasses
import math

from dpjax_accounting.checks import checked_integer, checked_positive
from dpjax_accounting.delta import validate_delta
from dpjax_accounting.mechanism import DPSGD
from dpjax_accounting.moments import rdp_epsilon
from dpjax_accounting.privacy_loss import SMALLEST_NOISE_MULTIPLIER, check_delta

LARGEST_TARGET = 100.0
LARGEST_NOISE_MULTIPLIER = 1e6
# ε is accepted from this share of the target up to the target itself.
_ACCEPTED = 0.999
_MAX_EVALUATIONS = 60


def calibrate_noise(
    target_epsilon: float,
    delta: float,
    num_units: int,
    expected_batch_size: float,
    num_steps: int,
    *,
    sampling: str = "poisson",
    unit: str = "record",
    neighboring: str = "add_or_remove_one",
) -> DPSGD:
    """Return the mechanism with (nearly) the least noise whose ε does not exceed `target_epsilon`.

    The ε of the returned mechanism has been computed: it lies between 99.9 % and 100 % of the
    target. That takes about four evaluations of :meth:`DPSGD.epsilon`: on one CPU core 1 s where
    the noise multiplier comes out near 2, 4 s near 0.8, 8 s near 0.55.

    Args:
        target_epsilon: above 0, at most 100.
        delta: between 0 and 1, not below 1e-14 × num_steps.
        num_units: as for :class:`DPSGD`, like the arguments that follow.
        expected_batch_size: as for :class:`DPSGD`.
        num_steps: at least 1.
        sampling: as for :class:`DPSGD`.
        unit: as for :class:`DPSGD`.
        neighboring: as for :class:`DPSGD`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range or not supported, or if no noise multiplier
            between 0.1 and 1e6 meets the target.

    Warns:
        DeltaWarning: if `delta` is at least 1 / num_units.
    """
    target = checked_positive("target_epsilon", target_epsilon)
    if target > LARGEST_TARGET:
        raise ValueError(
            f"target_epsilon={target:g} is above {LARGEST_TARGET:g}, which protects nobody. Choose"
            " a smaller target, or give a noise multiplier instead."
        )
    steps = checked_integer("num_steps", num_steps, minimum=0)
    if steps == 0:
        raise ValueError(
            "num_steps=0 releases nothing, so epsilon is 0 with any noise multiplier: there is"
            " nothing to calibrate. Give at least one step."
        )
    # A provisional noise multiplier, so that every other field is checked before any search.
    mechanism = DPSGD(
        num_units=num_units,
        expected_batch_size=expected_batch_size,
        noise_multiplier=1.0,
        num_steps=steps,
        sampling=sampling,
        unit=unit,
        neighboring=neighboring,
    )
    delta = check_delta(validate_delta(delta, mechanism.num_units), steps)
    return _search(mechanism, target, delta)


@dataclasses.dataclass
class _Bracket:
    """Logarithms of noise multipliers and of the ε they give, on either side of the answer."""

    too_little: tuple[float, float] | None = None
    enough: tuple[float, float] | None = None

    def next_guess(self, goal: float, slope: float) -> float:
        """Return where a straight line in logarithms meets `goal`; the midpoint where it fails."""
        if self.too_little is None or self.enough is None:
            x, y = self.too_little or self.enough
            # Twice or half the noise at most; half where ε = 0 tells nothing about the way to go.
            move = (goal - y) / slope if math.isfinite(y) else -math.inf
            return x + min(max(move, -math.log(2)), math.log(2))
        (left, high), (right, low) = self.too_little, self.enough
        share = (high - goal) / (high - low)
        return left + (right - left) * (share if 0.02 < share < 0.98 else 0.5)


def _search(mechanism: DPSGD, target: float, delta: float) -> DPSGD:
    goal = math.log(target * (1 + _ACCEPTED) / 2)
    log_noise, slope = _start(mechanism, target, delta)
    bracket = _Bracket()
    previous: tuple[float, float] | None = None
    for _ in range(_MAX_EVALUATIONS):
        noise = min(max(math.exp(log_noise), SMALLEST_NOISE_MULTIPLIER), LARGEST_NOISE_MULTIPLIER)
        candidate = dataclasses.replace(mechanism, noise_multiplier=noise)
        epsilon = candidate.epsilon(delta)
        if _ACCEPTED * target <= epsilon <= target:
            return candidate
        _refuse_at_the_ends(noise, epsilon, target, delta)
        point = math.log(noise), math.log(epsilon) if epsilon > 0 else -math.inf
        if epsilon > target:
            bracket.too_little = point
        else:
            bracket.enough = point
        slope = _slope(previous, point) or slope
        previous = point
        log_noise = bracket.next_guess(goal, slope)
    raise ArithmeticError(
        f"No noise multiplier between {math.exp(bracket.too_little[0]):.6g} and"
        f" {math.exp(bracket.enough[0]):.6g} gives an epsilon within 0.1 % below {target:g} at"
        f" delta={delta:g}."
    )


def _start(mechanism: DPSGD, target: float, delta: float) -> tuple[float, float]:
    """Return where the quick bound meets the target, and its slope there, both in logarithms."""

    def log_epsilon(log_noise: float) -> float:
        bound = rdp_epsilon(
            mechanism.sampling_probability, math.exp(log_noise), mechanism.num_steps, delta
        )
        return math.log(bound) if bound > 0 else -math.inf

    low, high = math.log(SMALLEST_NOISE_MULTIPLIER), math.log(LARGEST_NOISE_MULTIPLIER)
    while high - low > 0.01:
        middle = (low + high) / 2
        if log_epsilon(middle) > math.log(target):
            low = middle
        else:
            high = middle
    before = low - 0.02
    slope = _slope((before, log_epsilon(before)), (low, log_epsilon(low)))
    return high, slope or -1.0


def _slope(first: tuple[float, float] | None, second: tuple[float, float]) -> float | None:
    """Return the slope between two points; None unless it is finite and falls, as ε must."""
    if first is None or first[0] == second[0]:
        return None
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return slope if -math.inf < slope < 0 else None


def _refuse_at_the_ends(noise: float, epsilon: float, target: float, delta: float) -> None:
    if noise == SMALLEST_NOISE_MULTIPLIER and epsilon < target:
        raise ValueError(
            f"target_epsilon={target:g} is met from below by every noise multiplier that is"
            f" accounted for: already {noise:g} gives epsilon={epsilon:.4g} at delta={delta:g}."
            " Choose a smaller target or delta, or give a noise multiplier instead."
        )
    if noise == LARGEST_NOISE_MULTIPLIER and epsilon > target:
        raise ValueError(
            f"target_epsilon={target:g} cannot be met: even a noise multiplier of {noise:g} gives"
            f" epsilon={epsilon:.4g} at delta={delta:g}. Choose a larger target or delta, or fewer"
            " steps."
        )
