"""What noisy steps on retained records promise to a forget set: docs/unlearning.md has the proof.

The start x₀ is clipped to norm C₀. Step t takes a gradient g of retained records, clips it as a
whole to norm C₁, and draws noise Z of standard deviation s per coordinate:

    x ← Π((1 − η λ) x − η clip(g, C₁) + Z),

where Π clips to norm C₀. After T steps the result is compared with that of the same steps from a
model that never saw the forget set.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from dpjax_accounting import FullBatch

# r: what float32 changes in a step, relative to the norms in it (docs/unlearning.md, step 1).
ROUNDING = 1e-4
# Smaller numbers come near those that devices round to zero.
SMALLEST = 1e-20
MOST_STEPS = 10_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisySteps:
    """T noisy steps with clipped start and clipped gradients.

    Attributes:
        start_norm: C₀, at least 1e-20, of all trained parameters as one vector.
        gradient_norm: C₁, at least 0.
        learning_rate: η above 0.
        noise_stddev: s, at least 1e-20, per coordinate of the parameters, in their units: not times
            η.
        num_steps: T, from 1 to ten million.
        weight_decay: λ, at least 0, with η λ at most 1.

    Raises:
        ValueError: a value is outside its range.

    Example:
        >>> steps = NoisySteps(
        ...     start_norm=1.0, gradient_norm=0.5, learning_rate=0.1, noise_stddev=0.5, num_steps=20
        ... )
        >>> round(steps.mu, 4)  # at T = 20: √20 · (2 / 20 + 0.1 + rounding) / 0.5
        1.7907
    """

    start_norm: float
    gradient_norm: float
    learning_rate: float
    noise_stddev: float
    num_steps: int
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start_norm", "learning_rate", "noise_stddev"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in ("start_norm", "noise_stddev"):
            if getattr(self, name) < SMALLEST:
                raise ValueError(
                    f"{name} must be at least {SMALLEST:g}, got {getattr(self, name):g}: float32 "
                    "would round what the certificate rests on to zero"
                )
        for name in ("gradient_norm", "weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if not 1 <= self.num_steps <= MOST_STEPS:
            raise ValueError(f"num_steps must be from 1 to {MOST_STEPS:,}, got {self.num_steps:,}")
        if self.learning_rate * self.weight_decay > 1:
            raise ValueError(
                "learning_rate times weight_decay must be at most 1, or a step would turn the "
                f"parameters around; got {self.learning_rate * self.weight_decay:g}"
            )

    @property
    def mu(self) -> float:
        """μ of the Gaussian differential privacy between both results.

        With ρ = 1 − η λ, c = 2 (η C₁ + r (ρ C₀ + η C₁)) and r = 1e-4 for what float32 rounds:

            μ² s² = min over 1 ≤ n ≤ T of (ρⁿ 2 C₀ + c Σ_{j<n} ρʲ)² / Σ_{j<n} ρ²ʲ.

        The bound counts the last n steps alone: n steps before the end both models lie in a ball of
        diameter 2 C₀. It never rises with T. Without decay, gradient and rounding it is the
        known amplification by iteration, 2 C₀ / (s √T) (Feldman et al. 2018, arXiv:1808.06651).
        """
        ratio = 1 - self.learning_rate * self.weight_decay
        powers = ratio ** np.arange(self.num_steps + 1, dtype=np.float64)
        sums, squares = np.cumsum(powers[:-1]), np.cumsum(powers[:-1] ** 2)
        moved = self.learning_rate * self.gradient_norm
        grown = 2 * (moved + ROUNDING * (ratio * self.start_norm + moved)) * sums
        shifts = (powers[1:] * 2 * self.start_norm + grown) ** 2 / squares
        return float(math.sqrt(shifts.min()) / self.noise_stddev)

    def epsilon(self, delta: float) -> float:
        """Returns ε such that the result is (ε, δ)-indistinguishable from never having learnt.

        For all measurable sets, in both directions; exact for the Gaussian of `mu` (Balle and Wang
        2018, theorem 8).

        Args:
            delta: δ, above 0 and below 1.

        Raises:
            TypeError, ValueError: as for `Mechanism.epsilon`.

        Example:
            >>> steps = NoisySteps(
            ...     start_norm=0.5,
            ...     gradient_norm=0.0,
            ...     learning_rate=1.0,
            ...     noise_stddev=1.0,
            ...     num_steps=1,
            ... )
            >>> round(steps.epsilon(1e-5), 3)  # of one Gaussian release with μ = 1.0001
            4.378
        """
        mu = self.mu
        if mu == 0:
            # Whole decay without gradient: nothing of the start is left.
            return 0.0
        return FullBatch(noise_multiplier=1 / mu, num_steps=1).epsilon(delta)
