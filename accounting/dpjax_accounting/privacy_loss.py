"""The privacy loss distribution of repeated Poisson-sampled Gaussian releases, and its limits.

The distributions are dp-accounting's: pessimistic "connect the dots" discretisation (Doroshenko
et al. 2022) on a grid of 1e-4, composed by FFT (Koskela et al. 2020), each of the two directions
"unit removed" and "unit added" on its own, the larger ε counting (Zhu, Dong and Wang 2022).
dp-accounting takes more than a second to import, so that happens on first use.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from dpjax_accounting.checks import checked_delta, checked_real
from dpjax_accounting.moments import rdp_epsilon

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

GRID = 1e-4
# For values that need not be tight: a tenth of the time and memory, still an upper bound.
COARSE_GRID = 10 * GRID
SMALLEST_NOISE_MULTIPLIER = 0.1
LARGEST_NOISE_MULTIPLIER = 1e6
LARGEST_NUM_STEPS = 1_000_000
LARGEST_LOSS = 1000.0
# Composition drops this much probability from each tail.
_TAIL_MASS = 1e-15
# Raising an FFT to the power T loses about 1e-16 × T of probability: a hundredth of this.
_ROUND_OFF_PER_STEP = 1e-14


def smallest_delta(num_steps: int) -> float:
    """Return the smallest δ that double precision supports after `num_steps` steps.

    There, round-off changes δ by up to 1 % and ε by up to 0.05 %, in either direction (measured
    against an exponentially tilted FFT). At ten times this δ it is a tenth of that.
    """
    return _ROUND_OFF_PER_STEP * num_steps


def check_delta(delta: float, num_steps: int) -> float:
    """Return `delta` as a float if it is a probability and not below the smallest supported δ."""
    delta = checked_delta(delta)
    if delta < smallest_delta(num_steps):
        raise ValueError(
            f"delta={delta:g} is too small for {num_steps} steps: double-precision round-off would"
            f" decide the answer. The smallest supported delta is {smallest_delta(num_steps):g}."
        )
    return delta


class PrivacyLoss:
    """The privacy loss of one step, computed when first needed, and of its compositions.

    Building one step takes 0.02 s at noise multiplier 4, 1 s at 0.8, 15 s at 0.1 (one CPU core);
    composing it takes about a third of that at low noise, 0.1 s at high noise, whatever the number
    of steps. All of it is inversely proportional to `grid`. Noise multipliers above 1e6 count as
    1e6, which can only raise ε.
    """

    def __init__(
        self, sampling_probability: float, noise_multiplier: float, grid: float = GRID
    ) -> None:
        self._sampling_probability = sampling_probability
        self._noise_multiplier = min(noise_multiplier, LARGEST_NOISE_MULTIPLIER)
        self._grid = grid
        self._latest: tuple[int, PrivacyLossDistribution] | None = None

    def epsilon(self, num_steps: int, delta: float) -> float:
        """Return the smallest ε for `delta` after `num_steps` steps; ValueError if unsupported."""
        delta = check_delta(delta, num_steps)
        if num_steps == 0:
            return 0.0
        epsilon = float(self._composed(num_steps).get_epsilon_for_delta(delta))
        return self._checked("epsilon", epsilon, num_steps)

    def delta(self, num_steps: int, epsilon: float) -> float:
        """Return δ for `epsilon` after `num_steps` steps, or the smallest supported δ if larger."""
        epsilon = checked_real("epsilon", epsilon)
        if epsilon < 0:
            raise ValueError(f"epsilon must be at least 0; got {epsilon:g}.")
        if num_steps == 0:
            return 0.0
        delta = float(self._composed(num_steps).get_delta_for_epsilon(epsilon))
        delta = self._checked("delta", delta, num_steps)
        return min(1.0, max(delta, smallest_delta(num_steps)))

    def check_supported(self, num_steps: int) -> None:
        """Raise ValueError if `num_steps` steps take too long to account for, or lose too much."""
        if num_steps == 0:
            return
        if num_steps > LARGEST_NUM_STEPS:
            raise ValueError(
                f"More than {LARGEST_NUM_STEPS:,} steps are not accounted for; got {num_steps:,}."
                " Take fewer steps with a larger expected batch size."
            )
        noise, probability = self._noise_multiplier, self._sampling_probability
        if noise < SMALLEST_NOISE_MULTIPLIER:
            raise ValueError(
                f"Noise multipliers below {SMALLEST_NOISE_MULTIPLIER} are not accounted for; got"
                f" {noise:g}, with which the privacy loss of one step can reach"
                f" {0.5 / noise**2 + 10 / noise:.0f}. Raise the noise multiplier."
            )
        if rdp_epsilon(probability, noise, num_steps, _TAIL_MASS) > LARGEST_LOSS:
            raise ValueError(
                f"The privacy loss of {num_steps} steps with noise multiplier {noise:g} and"
                f" sampling probability {probability:g} can exceed {LARGEST_LOSS:.0f}: no useful"
                " epsilon exists. Raise the noise multiplier, take fewer steps, or lower the"
                " expected batch size."
            )

    @functools.cached_property
    def _one_step(self) -> PrivacyLossDistribution:
        from dp_accounting.pld import privacy_loss_distribution

        return privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=self._noise_multiplier,
            sampling_prob=self._sampling_probability,
            value_discretization_interval=self._grid,
        )

    def _composed(self, num_steps: int) -> PrivacyLossDistribution:
        if self._latest is None or self._latest[0] != num_steps:
            self.check_supported(num_steps)
            self._latest = num_steps, self._one_step.self_compose(num_steps, _TAIL_MASS)
        return self._latest[1]

    def _checked(self, name: str, value: float, num_steps: int) -> float:
        if not math.isfinite(value):
            raise ArithmeticError(
                f"The {name} of {num_steps} steps with noise multiplier"
                f" {self._noise_multiplier:g} and sampling probability"
                f" {self._sampling_probability:g} came out as {value}. Change one of them."
            )
        return value


@functools.lru_cache(maxsize=2)
def privacy_loss(sampling_probability: float, noise_multiplier: float) -> PrivacyLoss:
    """Return the privacy loss of one step, shared between calls with the same two numbers."""
    return PrivacyLoss(sampling_probability, noise_multiplier)
