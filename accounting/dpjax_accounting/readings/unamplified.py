"""ε without amplification by sampling: against somebody who knows which units were drawn."""

from __future__ import annotations

import math

import numpy as np

from dpjax_accounting.checks import checked_delta
from dpjax_accounting.engine.laplace import LaplacePair
from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.privacy_loss import Releases
from dpjax_accounting.engine.releases import Release, poisson
from dpjax_accounting.mechanisms.mechanism import Mechanism
from dpjax_accounting.mechanisms.other_samplings.fixed_size import FixedSizeDPSGD
from dpjax_accounting.mechanisms.other_samplings.random_allocation import RandomAllocationDPSGD

# Numbers of draws beyond this many standard deviations, and as many more, have a probability below
# 1e-40.
_TAIL = 40.0
_RELATIVE_ERROR = 1e-9
# Of the sums of several kinds of releases, which are rounded up to it.
_GRID_SIZE = 2**14


class NotSampled(ValueError):
    """It is not defined, or not known, what a mechanism loses if the draws are known."""


def unamplified_epsilon(mechanism: Mechanism, delta: float) -> float:
    """Returns the ε of `mechanism` if it is known in which steps each unit is due to be drawn.

    A unit that is due in K steps takes part in K Gaussian releases, which are one with noise
    multiplier σ / √K. K is binomial with q and the number of steps, so that

        δ(ε) = Σ_k P[K = k] · (Φ(√k/2σ − εσ/√k) − e^ε Φ(−√k/2σ − εσ/√k))

    (each term: Balle and Wang 2018, theorem 8), with σ/2 for σ where a unit is replaced. Sampling
    that is known does not amplify, but not every unit takes part in every step. Several kinds of
    releases add up their k/σ², rounded up to a grid. Without sampling it is the mechanism's own ε.

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: if `delta` does not lie strictly between 0 and 1.
        NotSampled: if a draw moves the sum by different amounts, as with several records of a user
            or truncated batches, or the mechanism is a bound on others, or has Laplace noise.
    """
    delta = checked_delta(delta)
    squares, probabilities = _squared_shifts(_sampled_releases(mechanism))
    shifts = np.sqrt(squares)

    def delta_at(epsilon: float) -> float:
        return float(probabilities @ _gaussian_delta(epsilon, shifts))

    if delta_at(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_at(high) > delta:
        low, high = high, 2 * high
        if high > 1e9:
            raise ValueError(f"delta={delta:g} is too small: no epsilon without sampling meets it.")
    while high - low > _RELATIVE_ERROR * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


def _sampled_releases(mechanism: Mechanism) -> Releases:
    """The releases of which a unit takes part in some, independently in each."""
    if isinstance(mechanism, RandomAllocationDPSGD):
        # One step of every epoch, and it is known which.
        return mechanism.unamplified.releases()
    if isinstance(mechanism, FixedSizeDPSGD):
        # Each unit alone is in a batch as in a Poisson one; which others are is known.
        q = mechanism.batch_size / mechanism.num_units
        step = poisson(q, mechanism.noise_multiplier, mechanism.neighboring)
        return ((step, mechanism.num_steps),)
    releases = mechanism.releases()
    if releases is None:
        raise NotSampled(
            f"A {mechanism.name!r} mechanism is known by a bound on all of it, not by what is drawn"
            " in its steps: it has no epsilon without amplification. Ask for that of the run in it."
        )
    return releases


def _squared_shifts(releases: Releases) -> tuple[Array, Array]:
    """What Σ (shift / noise)² can be, and how likely it is, rounded up if there are several."""
    parts = []
    for release, count in releases:
        probability, shift = _draw(release)
        draws, probabilities = _draws(count, probability)
        parts.append((draws * shift**2, probabilities))
    if not parts:
        return np.zeros(1), np.ones(1)
    if len(parts) == 1:
        return parts[0]
    interval = sum(squares[-1] for squares, _ in parts) / _GRID_SIZE
    total = np.ones(1)
    for squares, probabilities in parts:
        cells = np.ceil(squares / interval).astype(int)
        # Not by a transform: sums of products keep the digits of small probabilities.
        total = np.convolve(total, np.bincount(cells, probabilities))
    return np.arange(len(total)) * interval, total


def _draw(release: Release) -> tuple[float, float]:
    """How likely a unit is to take part in a release, and by how much it then moves the sum."""
    shifts: dict[float, float] = {}
    for weight, pair in release.removed:
        if isinstance(pair, LaplacePair):
            raise NotSampled(
                "What is left without amplification is implemented for Gaussian noise, not for"
                " Laplace noise. Take the mechanism's epsilon."
            )
        # Under replacement both sides have the same draws, otherwise one side has none.
        others = pair.q if len(pair.q) == len(pair.p) else pair.q * len(pair.p)
        for (w, mean), (_, other) in zip(pair.p, others, strict=True):
            if mean > other:
                shifts[mean - other] = shifts.get(mean - other, 0.0) + weight * w
    if len(shifts) > 1:
        raise NotSampled(
            "A draw of this mechanism moves the sum by different amounts, such as one or two clip"
            " norms: what is left without amplification is not implemented for that. Take its"
            " epsilon, or describe the run as DPSGD."
        )
    ((shift, probability),) = shifts.items()
    return probability, shift


def _draws(steps: int, q: float) -> tuple[Array, Array]:
    """The numbers of draws of a unit that matter, and their binomial probabilities."""
    from scipy.special import gammaln, xlog1py, xlogy

    width = _TAIL * math.sqrt(steps * q * (1 - q)) + _TAIL
    counts = np.arange(max(0, int(steps * q - width)), min(steps, int(steps * q + width)) + 1)
    log_ways = gammaln(steps + 1) - gammaln(counts + 1) - gammaln(steps - counts + 1)
    return counts.astype(np.float64), np.exp(
        log_ways + xlogy(counts, q) + xlog1py(steps - counts, -q)
    )


def _gaussian_delta(epsilon: float, shifts: Array) -> Array:
    """δ of the Gaussian mechanism with these sensitivities over noise; 0 where that is 0."""
    from scipy.special import log_ndtr, ndtr

    moved = np.where(shifts > 0, shifts, 1.0)
    first = ndtr(moved / 2 - epsilon / moved)
    second = np.exp(epsilon + log_ndtr(-moved / 2 - epsilon / moved))
    return np.where(shifts > 0, np.maximum(0.0, first - second), 0.0)
