"""Families of trade-off functions, from no privacy to much, for bounds that test one of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np
from dpjax_accounting import (
    SMALLEST_NOISE_MULTIPLIER,
    FullBatch,
    Mechanism,
    NotGaussian,
    gaussian_dp,
    profile,
)
from scipy import special

# P[E] under the output with a record → the least P[E] under the output without it.
LeastProbability = Callable[[float], float]
# Of a sampled mechanism: profile points from ε = 0 to where δ falls below this.
_NUM_POINTS, _SMALLEST_DELTA = 96, 1e-12
_LEAST_LEAKAGE = 2.0**-9


class CurveFamily(Protocol):
    """Trade-off functions that are ordered by one number, the `leakage`.

    Attributes:
        name: for reports.
        assumption: one sentence: when a bound from this family is one on the training's ε.
        most_leakage: where the search for a bound stops.
        tolerance: of the leakage, relative.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def assumption(self) -> str: ...  # noqa: D102

    @property
    def most_leakage(self) -> float: ...  # noqa: D102

    @property
    def tolerance(self) -> float: ...  # noqa: D102

    def least_probability(self, leakage: float) -> LeastProbability:
        """Returns x ↦ f(1 − x) for the member with this leakage; its trade-off function is f."""

    def epsilon(self, leakage: float, delta: float) -> float:
        """Returns the ε of the member with this leakage at δ."""


@dataclasses.dataclass(frozen=True)
class GaussianCurves:
    """The trade-off functions of one Gaussian release; the leakage is μ.

    f(1 − x) = Φ(Φ⁻¹(x) − μ) (Dong, Roth and Su 2022, "Gaussian Differential Privacy",
    equation 6).

    Example:
        >>> round(GaussianCurves().least_probability(1.0)(0.5), 6)
        0.158655
    """

    name: str = "Gaussian"
    assumption: str = "The training's trade-off function is that of a Gaussian release."
    most_leakage: float = 8.0
    tolerance: float = 1e-9

    def least_probability(self, leakage: float) -> LeastProbability:
        """Returns x ↦ Φ(Φ⁻¹(x) − μ)."""
        return lambda x: float(special.ndtr(special.ndtri(x) - leakage))

    def epsilon(self, leakage: float, delta: float) -> float:
        """Returns the ε at δ of a Gaussian release of sensitivity / noise `leakage`."""
        if leakage == 0:
            return 0.0
        return FullBatch(noise_multiplier=1 / leakage, num_steps=1).epsilon(delta)


@dataclasses.dataclass(frozen=True)
class MechanismCurves:
    """The trade-off functions of a mechanism with other noise; the leakage is claimed / true noise.

    A leakage of 1 is the mechanism itself. Without sampling the curves are exact. With it, f is
    the largest function that 96 points of the accountant's privacy profile imply: never above the
    mechanism's, so a bound from it is never too large.

    Attributes:
        mechanism: any mechanism with a field `noise_multiplier`.

    Raises:
        ValueError: if the mechanism has no single noise multiplier.

    Example:
        >>> curves = MechanismCurves(FullBatch(noise_multiplier=2.0, num_steps=4))
        >>> round(curves.least_probability(1.0)(0.5), 6)
        0.158655
    """

    mechanism: Mechanism

    def __post_init__(self) -> None:
        """Refuses mechanisms without a noise multiplier."""
        if not isinstance(getattr(self.mechanism, "noise_multiplier", None), (int, float)):
            raise ValueError(
                f"{type(self.mechanism).__name__} has no single noise_multiplier to vary. Use"
                " GaussianCurves()."
            )

    @property
    def most_leakage(self) -> float:
        """That with the least noise multiplier which the accountant takes."""
        noise: float = self.mechanism.noise_multiplier  # type: ignore[attr-defined]
        return noise / SMALLEST_NOISE_MULTIPLIER

    @property
    def tolerance(self) -> float:
        """Of the leakage, relative: each profile of a sampled mechanism takes long."""
        return 1e-9 if isinstance(self.mechanism, FullBatch) else 1e-3

    @property
    def name(self) -> str:
        """The mechanism's class."""
        return type(self.mechanism).__name__

    @property
    def assumption(self) -> str:
        """When a bound from this family is one on the training's ε."""
        return (
            f"The training is the claimed {self.name} with an unknown noise multiplier. Without"
            " that, a bound above the claimed ε still refutes the claim."
        )

    def with_leakage(self, leakage: float) -> Mechanism:
        """Returns the mechanism with its noise multiplier divided by `leakage`."""
        noise = self.mechanism.noise_multiplier / leakage  # type: ignore[attr-defined]
        return dataclasses.replace(self.mechanism, noise_multiplier=noise)

    def least_probability(self, leakage: float) -> LeastProbability:
        """Returns x ↦ f(1 − x)."""
        mechanism = self.with_leakage(leakage)
        try:
            mu = _exact_mu(mechanism)
        except NotGaussian:
            return _from_profile(mechanism)
        return GaussianCurves().least_probability(mu)

    def epsilon(self, leakage: float, delta: float) -> float:
        """Returns the accountant's ε at δ."""
        return self.with_leakage(leakage).epsilon(delta) if leakage > 0 else 0.0


def _exact_mu(mechanism: Mechanism) -> float:
    if mechanism.releases() is None or not isinstance(mechanism, FullBatch):
        raise NotGaussian
    return gaussian_dp(mechanism, 1e-5).mu


@functools.lru_cache(maxsize=64)
def _from_profile(mechanism: Mechanism) -> LeastProbability:
    """Returns x ↦ max over (ε, δ) of 0, 1 − δ − e^ε (1 − x) and e^−ε (x − δ)."""
    last = mechanism.epsilon(_SMALLEST_DELTA)
    epsilons = np.linspace(0.0, last, _NUM_POINTS) if last > 0 else np.zeros(1)
    deltas = profile(mechanism, epsilons)
    steep, flat = np.exp(epsilons), np.exp(-epsilons)

    def least(x: float) -> float:
        return max(
            0.0,
            float((1 - deltas - steep * (1 - x)).max()),
            float((flat * (x - deltas)).max()),
        )

    return least


def smallest_accepted(
    family: CurveFamily, is_rejected: Callable[[LeastProbability], bool]
) -> float:
    """Returns a leakage, at most the smallest whose curve is not rejected, within the tolerance.

    Args:
        family: whose curves are tested; less leakage is rejected wherever more is.
        is_rejected: the test.

    Returns:
        The largest leakage seen rejected; 0 if that of 2⁻¹⁰ was not.
    """
    low, high = 0.0, min(1.0, family.most_leakage)
    while is_rejected(family.least_probability(high)):
        low = high
        if low == family.most_leakage:
            return low
        high = min(2 * high, family.most_leakage)
    while low == 0:
        if high < _LEAST_LEAKAGE:
            return 0.0
        if is_rejected(family.least_probability(high / 2)):
            low = high / 2
        else:
            high /= 2
    while high - low > family.tolerance * high:
        middle = (low + high) / 2
        if is_rejected(family.least_probability(middle)):
            low = middle
        else:
            high = middle
    return low
