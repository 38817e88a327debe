"""DP-SGD of one number in each step, with Laplace noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.engine.privacy_loss import SMALLEST_NOISE_MULTIPLIER, checked_epsilon
from dpjax_accounting.engine.releases import LARGEST_NOISE_MULTIPLIER, Release, poisson_laplace
from dpjax_accounting.mechanisms.dpsgd import PoissonRecords

# Relative: floats round a product of a few factors by less.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaplaceDPSGD(PoissonRecords):
    """Poisson-sampled sums of one number, with Laplace noise.

    In each of `num_steps` steps every unit is included independently with probability
    q = expected_batch_size / num_units; its number is clipped to [−C, C]; and Laplace noise of
    scale noise_multiplier × C, whose standard deviation is √2 times that, is added to the sum
    (Zhang et al. 2024, "Private Fine-tuning of Large Language Models with Zeroth-order
    Optimization", arXiv:2401.04343, algorithm 1). The number is a zeroth-order difference: Laplace
    noise on the coordinates of a gradient would need another norm to clip by.

    ε(δ) is that of the composition of privacy losses, or num_steps × log(1 + q (e^(1/b) − 1)) with
    b = noise_multiplier if that is smaller: this one holds with δ = 0 (each step: Balle, Barthe and
    Gaboardi 2018, "Privacy Amplification by Subsampling", arXiv:1807.01647, theorem 8).

    Attributes:
        num_units: number of privacy units in the training data, at least 1.
        expected_batch_size: mean number of units per step, above 0 and at most `num_units`.
        noise_multiplier: b, scale of the noise / clip norm, at least 0.1.
        num_steps: number of noisy releases, at least 0.
        sampling: "poisson".
        unit: "record".
        neighboring: "add_or_remove_one" or "zero_out", which have the same ε.

    Raises:
        TypeError: if a field has the wrong type (a bool is not a number).
        ValueError: if a field is out of range, or a name unknown or not supported.

    Example:
        >>> from dpjax_accounting import LaplaceDPSGD
        >>> run = LaplaceDPSGD(
        ...     num_units=1000, expected_batch_size=20, noise_multiplier=4.0, num_steps=100
        ... )
        >>> round(run.epsilon(delta=1e-5), 3), round(run.epsilon(delta=0), 3)
        (0.155, 0.566)
    """

    name: ClassVar[str] = "laplace_dpsgd"
    relations: ClassVar[tuple[str, ...]] = ("add_or_remove_one", "zero_out")
    refused_relations: ClassVar[Mapping[str, str]] = {
        "replace_one": "a bound is known for a unit that is present or not, or without"
        " contribution",
    }
    refused_units: ClassVar[Mapping[str, str]] = {
        "user": "sampling, clipping and accounting treat each record on its own, and an epsilon for"
        " records is not an epsilon for users who own several. GroupOfRecords bounds it",
    }

    @property
    def noise_stddev(self) -> float:
        """The standard deviation of the noise / clip norm: √2 times the scale."""
        return math.sqrt(2) * self.noise_multiplier

    @property
    def largest_loss(self) -> float:
        """The ε that holds with δ = 0."""
        self._check_noise()
        noise = min(self.noise_multiplier, LARGEST_NOISE_MULTIPLIER)
        one_step = math.log1p(self.sampling_probability * math.expm1(1 / noise))
        return self.num_steps * one_step * (1 + _ROUNDING)

    def epsilon(self, delta: float) -> float:
        """Returns an ε at `delta`, which may be 0; otherwise as :meth:`Mechanism.epsilon`."""
        # False is refused with everything else that is no number.
        if delta == 0 and not isinstance(delta, bool):
            return self.largest_loss
        return min(super().epsilon(delta), self.largest_loss)

    def delta(self, epsilon: float) -> float:
        """Returns a δ at `epsilon`, 0.0 from `largest_loss` on, else as :meth:`Mechanism.delta`."""
        if checked_epsilon(epsilon) >= self.largest_loss:
            return 0.0
        return super().delta(epsilon)

    def _step(self) -> Release:
        """Returns the Poisson-sampled number with Laplace noise."""
        self._check_noise()
        return poisson_laplace(self.sampling_probability, self.noise_multiplier)

    def _check_noise(self) -> None:
        if self.noise_multiplier < SMALLEST_NOISE_MULTIPLIER:
            raise ValueError(
                f"Noise multipliers below {SMALLEST_NOISE_MULTIPLIER} are not accounted for; got"
                f" {self.noise_multiplier:g}, with which the privacy loss of one step can reach"
                f" {1 / self.noise_multiplier:.4g}. Raise the noise multiplier."
            )
