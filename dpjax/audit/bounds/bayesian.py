"""A credible interval of ε from true and false positive counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from dpjax.audit.bounds.attack_counts import AttackCounts
from dpjax.audit.bounds.bound import EpsilonBound, checked_delta
from dpjax.audit.membership.intervals import checked_share

_LARGEST_EPSILON = 60.0
_LARGEST_LOGIT = 80.0


def bayesian_epsilon(
    counts: AttackCounts, *, delta: float, confidence: float = 0.95
) -> EpsilonBound:
    """Returns the lower end of a one-sided credible interval of ε.

    The ε whose posterior probability of a smaller value is 1 − `confidence`; the posterior is that
    of :func:`posterior_probability`. A credible statement: it holds on average over the prior, not
    for each training procedure.

    Args:
        counts: of independent training runs.
        delta: in [0, 1).
        confidence: posterior probability that ε is larger.

    Raises:
        ValueError: if a value lies outside its range.

    Example:
        >>> counts = AttackCounts(
        ...     true_positives=80, num_positives=100, false_positives=5, num_negatives=100
        ... )
        >>> round(bayesian_epsilon(counts, delta=1e-5).epsilon, 6)
        2.112033
    """
    delta = checked_delta(delta)
    low, _ = _interval(counts, delta, below=1 - checked_share("confidence", confidence), above=None)
    return EpsilonBound(
        method="Bayesian",
        epsilon=low,
        delta=delta,
        confidence=confidence,
        validity="model-based",
        assumption=(
            "Jeffreys' prior on both rates; the probability is the posterior's. Each count is of"
            " independent training runs at a threshold that was fixed before."
        ),
        numbers=counts.to_dict(),
    )


def credible_interval(
    counts: AttackCounts, *, delta: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the equal-tailed credible interval of the ε that an attack's rates imply.

    The upper end is that of this attack's ε, not of the training's: another attack may find more.

    Args:
        counts: of independent training runs.
        delta: in [0, 1).
        confidence: posterior probability of the interval.

    Raises:
        ValueError: if a value lies outside its range.

    Example:
        >>> counts = AttackCounts(
        ...     true_positives=80, num_positives=100, false_positives=5, num_negatives=100
        ... )
        >>> low, high = credible_interval(counts, delta=1e-5)
        >>> round(low, 6), round(high, 6)
        (2.008199, 3.722386)
    """
    tail = (1 - checked_share("confidence", confidence)) / 2
    low, high = _interval(counts, checked_delta(delta), below=tail, above=tail)
    assert high is not None
    return low, high


def posterior_probability(epsilon: float, *, counts: AttackCounts, delta: float) -> float:
    """Returns the posterior probability that the rates are possible under (ε, δ)-DP.

    With x the FNR and y the FPR, posteriors Beta(½ + FN, ½ + TP) and Beta(½ + FP, ½ + TN), and the
    region x + e^ε y ≥ 1 − δ, e^ε x + y ≥ 1 − δ and their reflections x → 1 − x, y → 1 − y
    (Kairouz, Oh and Viswanath 2015; Zanella-Béguelin and others 2023, "Bayesian Estimation of
    Differential Privacy", section 4).

    Args:
        epsilon: at least 0.
        counts: of independent training runs.
        delta: in [0, 1).
    """
    hits, misses, alarms = counts.true_positives, counts.false_negatives, counts.false_positives
    fnr = stats.beta(0.5 + misses, 0.5 + hits)
    fpr = stats.beta(0.5 + alarms, 0.5 + counts.true_negatives)
    # x runs through the logistic function, because both the density and the region's edges change
    # over many orders of magnitude near 0 and near 1.
    steep, flat = np.exp(epsilon), np.exp(-epsilon)
    levels = special.expit(np.linspace(-30, 30, 61))
    seen, corner = fpr.ppf(levels), (1 - delta) / (1 + steep)
    edges = [
        fnr.ppf(levels),
        # Where an edge of the region passes the bulk of the other posterior, and its corners.
        (1 - delta - seen) * flat,
        1 - delta - steep * seen,
        delta + steep * (1 - seen),
        1 - (seen - delta) * flat,
        [corner, 1 - corner, delta, 1 - delta],
    ]
    logits, weights = _nodes(np.concatenate(edges))
    x, rest = special.expit(logits), special.expit(-logits)
    density = np.exp(
        special.xlog1py(0.5 + hits, -x)
        + special.xlogy(0.5 + misses, x)
        - special.betaln(0.5 + misses, 0.5 + hits)
    )
    low = np.maximum((rest - delta) * flat, 1 - delta - steep * x)
    high = np.minimum(1 - (x - delta) * flat, delta + steep * rest)
    inside = fpr.cdf(np.clip(high, 0, 1)) - fpr.cdf(np.clip(low, 0, 1))
    return float(weights * density @ np.maximum(inside, 0.0))


def _nodes(edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns Gauss and Legendre's nodes and weights, in logits, on the panels between `edges`."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    ends = special.logit(np.clip(edges, 1e-35, 1 - 1e-16))
    ends = np.unique(np.concatenate([ends, np.arange(-_LARGEST_LOGIT, _LARGEST_LOGIT + 1)]))
    half, middle = np.diff(ends)[:, None] / 2, (ends[:-1] + ends[1:])[:, None] / 2
    return (middle + half * nodes).ravel(), (half * weights).ravel()


def _interval(
    counts: AttackCounts, delta: float, *, below: float, above: float | None
) -> tuple[float, float | None]:
    def quantile(probability: float) -> float:
        def excess(epsilon: float) -> float:
            return posterior_probability(epsilon, counts=counts, delta=delta) - probability

        if excess(0.0) >= 0:
            return 0.0
        if excess(_LARGEST_EPSILON) < 0:
            return _LARGEST_EPSILON
        return float(optimize.brentq(excess, 0.0, _LARGEST_EPSILON, xtol=1e-10))

    return quantile(below), None if above is None else quantile(1 - above)
