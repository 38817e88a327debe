"""ε and δ of a composition of noisy releases, and the limits of what is accounted for.

A unit may be removed or added, which are two privacy losses; each composes on its own, and the
larger ε counts (Zhu, Dong and Wang 2022). The values are upper bounds: losses are rounded
pessimistically, and what the computation leaves out is added to δ.
"""

from __future__ import annotations

import functools
import math

from dpjax_accounting.checks import checked_delta, checked_real
from dpjax_accounting.engine.composed_loss import ComposedLoss
from dpjax_accounting.engine.releases import Release
from dpjax_accounting.engine.renyi import epsilon_of_rdp

# One step's tails are cut at 4e-36; this leaves room for 1e7 steps.
SMALLEST_DELTA = 1e-25
SMALLEST_NOISE_MULTIPLIER = 0.1
LARGEST_NUM_STEPS = 10_000_000
LARGEST_LOSS = 1000.0
# How likely a loss may at most be for it not to count against LARGEST_LOSS.
_NEGLIGIBLE = 1e-15

Releases = tuple[tuple[Release, int], ...]


def check_delta(delta: float) -> float:
    """Returns `delta` as a float if it is a probability and not below the smallest supported δ."""
    delta = checked_delta(delta)
    if delta < SMALLEST_DELTA:
        raise ValueError(
            f"delta={delta:g} is too small: the tails of the noise are followed as far as the"
            f" smallest supported delta, which is {SMALLEST_DELTA:g}."
        )
    return delta


def checked_epsilon(epsilon: object) -> float:
    """Returns `epsilon` as a finite float of at least 0, or raises."""
    number = checked_real("epsilon", epsilon)
    if number < 0:
        raise ValueError(f"epsilon must be at least 0; got {number:g}.")
    return number


def check_noise(noise_multiplier: float) -> None:
    """Raises ValueError where one step alone can lose so much that no useful ε exists."""
    if noise_multiplier < SMALLEST_NOISE_MULTIPLIER:
        # Divided twice: the square of a tiny number is 0.
        reach = 0.5 / noise_multiplier / noise_multiplier + 10 / noise_multiplier
        raise ValueError(
            f"Noise multipliers below {SMALLEST_NOISE_MULTIPLIER} are not accounted for; got"
            f" {noise_multiplier:g}, with which the privacy loss of one step can reach"
            f" {reach:.4g}. Raise the noise multiplier."
        )


class PrivacyLoss:
    """The privacy loss of releases with the numbers of times that they take place.

    Args:
        releases: each release with its count; counts of 0 are permitted.
        coarser: factor on the grid interval, for values that need not be tight.
    """

    def __init__(self, releases: Releases, coarser: float = 1.0) -> None:
        self._releases = tuple((release, count) for release, count in releases if count)
        removed, added = (
            tuple((getattr(release, side), count) for release, count in self._releases)
            for side in ("removed", "added")
        )
        different = (removed,) if removed == added else (removed, added)
        self._losses = [ComposedLoss(runs, coarser) for runs in different if runs]
        self._delta_of_presence = sum(
            count * _total_variation(release) for release, count in self._releases
        )

    def epsilon(self, delta: float) -> float:
        """Returns the smallest ε for `delta`; ValueError if unsupported."""
        delta = check_delta(delta)
        if self._delta_of_presence <= delta:
            return 0.0
        self.check_supported()
        return max(_finite("epsilon", loss.epsilon(delta)) for loss in self._losses)

    def delta(self, epsilon: float) -> float:
        """Returns δ for `epsilon`, or the smallest supported δ if that is larger."""
        epsilon = checked_epsilon(epsilon)
        if self._delta_of_presence == 0:
            return 0.0
        if self._delta_of_presence <= SMALLEST_DELTA:
            return SMALLEST_DELTA
        self.check_supported()
        delta = max(_finite("delta", loss.delta(epsilon)) for loss in self._losses)
        return min(1.0, max(delta, SMALLEST_DELTA))

    def rough_epsilon(self, delta: float) -> float:
        """Returns an ε near :meth:`epsilon`, usually above it, in a hundredth of the time.

        It is no bound: rare losses are left out. It is that of Rényi differential privacy.
        """
        roughly = [
            epsilon_of_rdp(1 + orders, values / orders, delta)
            for orders, values in (
                (loss.moments.orders, loss.moments.values) for loss in self._losses
            )
        ]
        return max(roughly, default=0.0)

    def check_supported(self) -> None:
        """Raises ValueError if there are too many steps, or they lose too much."""
        steps = sum(count for _, count in self._releases)
        if steps > LARGEST_NUM_STEPS:
            raise ValueError(
                f"More than {LARGEST_NUM_STEPS:,} steps are not accounted for; got {steps:,}."
                " Take fewer steps with a larger expected batch size."
            )
        largest = max(
            (loss.moments.upper_end(math.log(_NEGLIGIBLE)) for loss in self._losses), default=0.0
        )
        if largest > LARGEST_LOSS:
            raise ValueError(
                f"The privacy loss of {steps} steps can exceed {LARGEST_LOSS:.0f}: no useful"
                " epsilon exists. Raise the noise multiplier, take fewer steps, or lower the"
                " expected batch size."
            )


def _total_variation(release: Release) -> float:
    """Returns a bound on one step's δ at ε = 0."""
    return sum(weight * pair.total_variation for weight, pair in release.removed)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ArithmeticError(f"The {name} came out as {value}. Change a parameter slightly.")
    return value


@functools.lru_cache(maxsize=8)
def privacy_loss(releases: Releases) -> PrivacyLoss:
    """Returns the privacy loss of `releases`, shared between calls with equal ones."""
    return PrivacyLoss(releases)
