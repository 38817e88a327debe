"""Bounds from true and false positive rates over many independent training runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from dpjax_accounting import FullBatch, Mechanism, trade_off
from scipy import special, stats

from dpjax.audit.bounds.attack_counts import AttackCounts
from dpjax.audit.bounds.bound import EpsilonBound, checked_delta
from dpjax.audit.membership.intervals import checked_share

_INDEPENDENT = (
    "Each count is of independent training runs, and the threshold was fixed before their scores"
    " were seen. Canaries of one run are not independent runs."
)


def clopper_pearson_epsilon(
    counts: AttackCounts, *, delta: float, confidence: float = 0.95
) -> EpsilonBound:
    """Returns the bound that holds for every (ε, δ)-DP training procedure, from independent runs.

        ε̂ = max(log((TPR_lo − δ) / FPR_hi), log((1 − FPR_hi − δ) / (1 − TPR_lo)), 0)

    with one-sided limits of Clopper and Pearson 1934 at level α / 2 each (Jagielski, Ullman and
    Oprea 2020, "Auditing Differentially Private Machine Learning", section 3). Both quotients use
    the same two limits, and so hold together.

    Args:
        counts: of independent training runs.
        delta: in [0, 1).
        confidence: 1 − α.

    Raises:
        ValueError: if a value lies outside its range.

    Example:
        >>> counts = AttackCounts(
        ...     true_positives=500, num_positives=500, false_positives=0, num_negatives=500
        ... )
        >>> round(clopper_pearson_epsilon(counts, delta=0.0, confidence=0.99).epsilon, 6)
        4.541916
    """
    delta = checked_delta(delta)
    tpr_low, fpr_high = _rate_limits(counts, 1 - checked_share("confidence", confidence))
    quotients = [(tpr_low - delta, fpr_high), (1 - fpr_high - delta, 1 - tpr_low)]
    epsilon = max([0.0, *(math.log(over / under) for over, under in quotients if over > 0)])
    return EpsilonBound(
        method="Clopper-Pearson",
        epsilon=epsilon,
        delta=delta,
        confidence=confidence,
        validity="certified",
        assumption=_INDEPENDENT,
        numbers=counts.to_dict(),
    )


def gaussian_epsilon(
    counts: AttackCounts, *, delta: float, confidence: float = 0.95
) -> EpsilonBound:
    """Returns the ε of the least leaky Gaussian release that the rates do not contradict.

        μ̂ = Φ⁻¹(1 − FPR_hi) − Φ⁻¹(1 − TPR_lo)

    with one-sided limits of Clopper and Pearson 1934 at level α / 2 each (Nasr and others 2023,
    "Tight Auditing of Differentially Private Machine Learning", section 4.3); ε̂ is the ε at δ of a
    Gaussian release of sensitivity μ̂ and noise 1. It may exceed what so few runs could certify.

    Args:
        counts: of independent training runs.
        delta: in (0, 1).
        confidence: 1 − α.

    Raises:
        ValueError: if a value lies outside its range.

    Example:
        >>> counts = AttackCounts(
        ...     true_positives=80, num_positives=100, false_positives=5, num_negatives=100
        ... )
        >>> round(gaussian_epsilon(counts, delta=1e-5).epsilon, 6)
        8.547615
    """
    delta = checked_share("delta", delta)
    tpr_low, fpr_high = _rate_limits(counts, 1 - checked_share("confidence", confidence))
    mu = float(special.ndtri(tpr_low) - special.ndtri(fpr_high))
    released = FullBatch(noise_multiplier=1 / mu, num_steps=1) if mu > 0 else None
    return EpsilonBound(
        method="Gaussian",
        epsilon=0.0 if released is None else released.epsilon(delta),
        delta=delta,
        confidence=confidence,
        validity="model-based",
        assumption=f"The training's trade-off function is that of a Gaussian. {_INDEPENDENT}",
        numbers=counts.to_dict() | {"mu": max(mu, 0.0)},
    )


def refutes_trade_off(
    mechanism: Mechanism, counts: Sequence[AttackCounts], *, confidence: float = 0.95
) -> bool:
    """Returns whether independent runs contradict the claim that training is this mechanism.

    The claim is refuted if TPR_lo > F(FPR_hi) at one of K thresholds, where F is the largest true
    positive rate that the mechanism allows (:func:`dpjax_accounting.trade_off`). The limits are
    one-sided ones of Clopper and Pearson 1934 at level α / (2K) each, so all hold together with
    probability 1 − α (Bonferroni). F does not decrease, and so F(FPR) ≤ F(FPR_hi): training that
    keeps to F is called a violation with probability α at most. No model is assumed. The test sees
    more than a comparison of ε does: F holds every (ε, δ) of the mechanism at once.

    The thresholds are fixed before the scores are seen, or chosen on other runs.

    Args:
        mechanism: what training is claimed to be, with the neighbouring relation in which the two
            kinds of runs differ.
        counts: of K thresholds; under "replace_one" a run without the record has the other one.
        confidence: 1 − α.

    Raises:
        ValueError: if there is no threshold, or a value lies outside its range.

    Example:
        Full-batch training at ε = 1 allows 15 % true positives where 10 % are false.

        >>> mechanism = FullBatch(noise_multiplier=3.730633, num_steps=1)
        >>> [
        ...     refutes_trade_off(
        ...         mechanism,
        ...         [
        ...             AttackCounts(
        ...                 true_positives=hits, num_positives=1000, false_positives=100,
        ...                 num_negatives=1000,
        ...             )
        ...         ],
        ...     )
        ...     for hits in (150, 250)
        ... ]
        [False, True]
    """
    if not counts:
        raise ValueError("counts must hold the counts of at least one threshold; got none.")
    alpha = (1 - checked_share("confidence", confidence)) / len(counts)
    tpr_low, fpr_high = np.array([_rate_limits(each, alpha) for each in counts]).T
    return bool(np.any(tpr_low > trade_off(mechanism, fpr_high)))


def _rate_limits(counts: AttackCounts, alpha: float) -> tuple[float, float]:
    """Returns a lower limit of the TPR and an upper one of the FPR, each at level α / 2."""
    hits, alarms = counts.true_positives, counts.false_positives
    low = stats.beta.ppf(alpha / 2, hits, counts.false_negatives + 1) if hits else 0.0
    if not counts.true_negatives:
        return float(low), 1.0
    return float(low), float(stats.beta.isf(alpha / 2, alarms + 1, counts.true_negatives))
