"""Limits of confidence for the mean of a few numbers between 0 and 1."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from dpjax.audit.membership.intervals import checked_share

_ITERATIONS = 60


def mean_upper_limit(values: ArrayLike, *, confidence: float = 0.95) -> float:
    """Returns an upper confidence limit of the expectation that values in [0, 1] have.

    The values are independent and have one distribution, of which nothing else is assumed. For
    their mean m, P[m ≤ x] ≤ exp(−n KL(x ‖ μ)) at every x ≤ μ (Hoeffding 1963, "Probability
    Inequalities for Sums of Bounded Random Variables", theorem 1, inequality 2.1). The limit is the
    largest μ ≥ m with n KL(m ‖ μ) ≤ log(1 / (1 − confidence)). Of zeros that is 1 − α^(1/n), which
    no other limit of this kind goes below.

    Args:
        values: (n,) numbers in [0, 1], n ≥ 1: the rate of each of n models, for instance.
        confidence: one-sided, between 0 and 1.

    Raises:
        ValueError: there is no value, one is outside [0, 1], or the confidence is outside (0, 1).

    Example:
        >>> round(mean_upper_limit([0.0] * 20), 4) == round(1 - 0.05 ** (1 / 20), 4)
        True
    """
    rates = np.asarray(values, np.float64).reshape(-1)
    if not len(rates) or not np.all((rates >= 0) & (rates <= 1)):
        raise ValueError(f"values must be at least one number in [0, 1], got {rates.tolist()}")
    allowed = -math.log(1 - checked_share("confidence", confidence)) / len(rates)
    mean = float(rates.mean())
    low, high = mean, 1.0
    for _ in range(_ITERATIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(mean, middle) <= allowed else (low, middle)
    # The end that is surely not too low.
    return high


def _divergence(p: float, q: float) -> float:
    """KL of Bernoulli(p) from Bernoulli(q), in nats."""
    kept = p * math.log(p / q) if p > 0 and q > 0 else (0.0 if p == 0 else math.inf)
    lost = (1 - p) * math.log((1 - p) / (1 - q)) if p < 1 and q < 1 else _at_one(p)
    return kept + lost


def _at_one(p: float) -> float:
    return 0.0 if p == 1 else math.inf
