"""Points of a mechanism's privacy profile, and the tests that they leave possible."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike

from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.mechanisms.mechanism import Mechanism

_NUM_POINTS = 48


def profile(mechanism: Mechanism, epsilons: ArrayLike) -> Array:
    """Returns the δ of `mechanism` at each of `epsilons`: its privacy profile, an upper bound.

    Args:
        mechanism: any mechanism.
        epsilons: any shape, each at least 0.

    Returns:
        float64 of the shape of `epsilons`.

    Raises:
        ValueError: as for :meth:`Mechanism.delta`.
    """
    values = np.asarray(epsilons, dtype=np.float64)
    return np.array([mechanism.delta(float(epsilon)) for epsilon in values.flat]).reshape(
        values.shape
    )


@dataclasses.dataclass(frozen=True)
class ProfilePoints:
    """Points of a privacy profile.

    Attributes:
        epsilons: from 0, increasing.
        deltas: at each of them.
    """

    epsilons: Array
    deltas: Array

    def corners(self) -> tuple[Array, Array]:
        """Returns (FPR, TPR) of every corner of the region of tests between FPR 0 and slope 1.

        Each point confines tests to TPR ≤ e^ε FPR + δ; a corner is where two neighbouring lines
        meet. The region is symmetric in the other diagonal.
        """
        slopes = np.exp(self.epsilons)
        fpr = np.maximum(0.0, -np.diff(self.deltas)) / np.diff(slopes)
        return fpr, self.deltas[:-1] + slopes[:-1] * fpr


@functools.lru_cache(maxsize=8)
def profile_points(mechanism: Mechanism, delta: float) -> ProfilePoints:
    """Returns 48 evenly spaced points of the profile from ε = 0 to ε(`delta`).

    Evenly spaced in ε: for a Gaussian, the corners between them are then evenly spaced in
    standard deviations. Where ε(`delta`) = 0 there is one point.

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: as for :meth:`Mechanism.epsilon`.
    """
    last = mechanism.epsilon(delta)
    epsilons = np.linspace(0.0, last, _NUM_POINTS) if last > 0 else np.zeros(1)
    # Both hold, and the computed values may differ by their rounding.
    deltas = np.minimum.accumulate(profile(mechanism, epsilons))
    return ProfilePoints(epsilons, deltas)
