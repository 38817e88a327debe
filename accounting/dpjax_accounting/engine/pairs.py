"""Pairs of output distributions that dominate one noisy release, in units of its noise.

A pair (P, Q) dominates a release if for all neighbouring data sets and all α the hockey-stick
divergence of its outputs is at most E_α(P‖Q). Dominating pairs compose, also adaptively (Zhu, Dong
and Wang 2022, "Optimal Accounting of Differential Privacy via Characteristic Function",
theorem 10).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# (weight, mean) of every Gaussian of a mixture.
Side = tuple[tuple[float, float], ...]

# Beyond this many standard deviations lies less than 1e-35 of a Gaussian: counted as certain loss.
UPPER_TAIL = 12.5
# Below this many lies 1e-19: its loss is rounded up.
LOWER_TAIL = 9.0
# The trapezoidal rule on an analytic integrand is exact to double precision at this spacing.
_SPACING = 0.05
# exp() of more than this is not needed where its derivative is.
_LARGEST_EXPONENT = 600.0
_TABLE_SIZE = 2**15
_NEWTON_STEPS = 2


@dataclasses.dataclass(frozen=True)
class MixturePair:
    """P = Σ pᵢ N(aᵢ, 1) against Q = Σ qⱼ N(−bⱼ, 1), with aᵢ, bⱼ ≥ 0 not all zero.

    Then log P/Q grows with the output, so that losses and outputs correspond one to one.

    Attributes:
        p: (weight, mean) of every component of P; the weights, above 0, add up to 1.
        q: the same of Q.
    """

    p: Side
    q: Side

    @property
    def is_gaussian(self) -> bool:
        """Whether both are single Gaussians."""
        return len(self.p) == len(self.q) == 1

    @property
    def distance(self) -> float:
        """The largest distance between a mean of P and one of Q."""
        return max(mean for _, mean in self.p) - min(mean for _, mean in self.q)

    @property
    def total_variation(self) -> float:
        """A bound on the hockey stick at ε = 0: P[means differ] × that of the Gaussians."""
        least = min(mean for _, mean in self.q)
        return sum(w * math.erf((mean - least) / 2**1.5) for w, mean in self.p if mean > 0)

    def loss(self, z: Array) -> Array:
        """Returns log P(z)/Q(z)."""
        return _log_ratio(self.p, z) - _log_ratio(self.q, z)

    @functools.cached_property
    def outputs(self) -> tuple[float, float]:
        """The range of outputs outside which P has next to no mass."""
        means = [mean for _, mean in self.p]
        return min(means) - LOWER_TAIL, max(means) + UPPER_TAIL

    def inverse(self, losses: Array) -> Array:
        """Returns the outputs whose loss is `losses`, which must lie inside the range."""
        table, its_losses = _table(self)
        z = np.interp(losses, its_losses, table)
        for _ in range(_NEWTON_STEPS):
            slope = _slope(self.p, z) - _slope(self.q, z)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = (losses - self.loss(z)) / slope
            z = z + np.where(np.isfinite(step), np.clip(step, -0.1, 0.1), 0.0)
        return np.clip(np.maximum.accumulate(z), table[0], table[-1])

    def masses(self, edges: Array) -> tuple[Array, Array]:
        """Returns the probability under P and under Q between every two successive `edges`."""
        return _masses(self.p, edges), _masses(self.q, edges)

    def beyond(self, z: float) -> float:
        """Returns P's mass above `z`."""
        from scipy import special

        return float(sum(weight * special.ndtr(mean - z) for weight, mean in self.p))

    def nodes(self, order: float) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Returns log-weights w and losses: Σ exp(w + t·loss) = E_P[exp(t·loss)], 0 ≤ t ≤ order.

        The nodes reach as far as P tilted by the loss does. The third array tells which of them lie
        in the bulk of P, within three standard deviations of where it starts.
        """
        low, high = self.outputs
        z = np.arange(low, high + order * self.distance, _SPACING)
        return _log_density(self.p, z) + np.log(_SPACING), self.loss(z), z < low + LOWER_TAIL + 3


# Few, because a schedule may have thousands of pairs, and a table takes half a megabyte.
@functools.lru_cache(maxsize=4)
def _table(pair: MixturePair) -> tuple[Array, Array]:
    """Returns outputs of `pair` and their losses, from which the inverse starts."""
    table = np.linspace(*pair.outputs, _TABLE_SIZE)
    return table, np.maximum.accumulate(pair.loss(table))


def _log_ratio(side: Side, z: Array) -> Array:
    """Returns log of Σ w N(m, 1) against N(0, 1), exact also where it is close to 0."""
    exponents = [mean * z - mean**2 / 2 for _, mean in side]
    if len(side) == 1:
        return exponents[0]
    logs = [
        np.log(weight) + exponent for (weight, _), exponent in zip(side, exponents, strict=True)
    ]
    far: Array = np.logaddexp.reduce(logs)
    excess = np.zeros_like(z)
    for (weight, _), exponent in zip(side, exponents, strict=True):
        excess += weight * np.expm1(np.minimum(exponent, _LARGEST_EXPONENT))
    # Where the parts nearly cancel, the logarithm of 1 + a small number keeps the digits.
    near = np.abs(excess) < 0.5
    far[near] = np.log1p(excess[near])
    return far


def _slope(side: Side, z: Array) -> Array:
    """Returns the derivative of :func:`_log_ratio`: the mean of the part that z came from."""
    if len(side) == 1:
        return np.full_like(z, side[0][1])
    ratio, slope = np.zeros_like(z), np.zeros_like(z)
    for weight, mean in side:
        part = weight * np.exp(np.minimum(mean * z - mean**2 / 2, _LARGEST_EXPONENT))
        ratio += part
        slope += mean * part
    return slope / ratio


def _log_density(side: Side, z: Array) -> Array:
    parts = [np.log(weight) - (z - mean) ** 2 / 2 for weight, mean in side]
    density: Array = np.logaddexp.reduce(parts) - 0.5 * np.log(2 * np.pi)
    return density


def _masses(side: Side, edges: Array) -> Array:
    from scipy import special

    total = np.zeros(len(edges) - 1)
    for weight, mean in side:
        u = edges - mean
        tail = special.ndtr(-np.abs(u))
        left, right = tail[:-1], tail[1:]
        # Differences of the smaller tail, so that no interval loses its digits.
        across = 1 - left - right
        one_side = np.abs(left - right)
        total += weight * np.where((u[:-1] < 0) & (u[1:] > 0), across, one_side)
    return total
