"""The bound of one training run for a trade-off function: tighter than one for all (ε, δ)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dpjax.audit.bounds.bound import EpsilonBound
from dpjax.audit.bounds.curves import (
    CurveFamily,
    GaussianCurves,
    LeastProbability,
    smallest_accepted,
)
from dpjax.audit.bounds.one_run import checked_guesses
from dpjax.audit.membership.intervals import checked_share


def is_rejected(
    least_probability: LeastProbability,
    *,
    num_canaries: int,
    num_guesses: int,
    num_correct: int,
    significance: float,
) -> bool:
    """Returns whether so many correct guesses are too unlikely for a trade-off function f.

    With f̄(x) = f(1 − x), τ the significance, h_v = τ (r − v) / m and r_v = τ v / m, for
    i = v − 1 down to 0:

        h_i = max(h_{i+1}, f̄(r_{i+1}))
        r_i = r_{i+1} + i / (r − i) × (h_i − h_{i+1})

    and f is rejected where r_0 + h_0 > r / m (Mahloujifar, Melis and Chaudhuri 2024, "Auditing
    f-Differential Privacy in One Run", algorithm 3, for guesses of one bit). A level of at most τ
    for every mechanism whose trade-off function is at least f.

    Args:
        least_probability: f̄.
        num_canaries: m, canaries with a fair coin each.
        num_guesses: r ≤ m, of both kinds, fixed before the scores were seen.
        num_correct: v ≤ r.
        significance: τ, in (0, 1).

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.
    """
    m, r, v = checked_guesses(num_canaries, num_guesses, num_correct)
    tau = checked_share("significance", significance)
    hidden, found = tau * (r - v) / m, tau * v / m
    for i in range(v - 1, -1, -1):
        raised = max(hidden, least_probability(min(found, 1.0)))
        found += i / (r - i) * (raised - hidden)
        hidden = raised
        if found + hidden > r / m:
            return True
    return found + hidden > r / m


def one_run_fdp_epsilon(
    *,
    num_canaries: int,
    num_guesses: int,
    num_correct: int,
    delta: float,
    confidence: float = 0.95,
    curves: CurveFamily | None = None,
) -> EpsilonBound:
    """Returns the ε of the least leaky trade-off function that the guesses do not reject.

    Args:
        num_canaries: m, canaries with a fair coin each.
        num_guesses: r ≤ m, fixed before the scores were seen.
        num_correct: v ≤ r.
        delta: at which the bound is stated, in (0, 1).
        confidence: 1 − τ.
        curves: a family of trade-off functions. Default: Gaussian ones.

    Returns:
        The bound, model-based: the family must hold the training's own function.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.

    Example:
        >>> bound = one_run_fdp_epsilon(
        ...     num_canaries=1000, num_guesses=100, num_correct=90, delta=1e-5
        ... )
        >>> round(bound.epsilon, 6)
        2.456405
    """
    counts = checked_guesses(num_canaries, num_guesses, num_correct)
    numbers = dict(zip(("num_canaries", "num_guesses", "num_correct"), counts, strict=True))
    return bound_of_family(
        curves,
        lambda curve, significance: is_rejected(curve, significance=significance, **numbers),
        delta=delta,
        confidence=confidence,
        numbers=numbers,
    )


def bound_of_family(
    curves: CurveFamily | None,
    rejects: Callable[[LeastProbability, float], bool],
    *,
    delta: float,
    confidence: float,
    numbers: Mapping[str, Any],
) -> EpsilonBound:
    """Returns the ε of the least leaky trade-off function that a test does not reject.

    Args:
        curves: a family of trade-off functions; None: Gaussian ones.
        rejects: the test of one function, at a significance.
        delta: at which the bound is stated, in (0, 1).
        confidence: 1 − the significance.
        numbers: what the test saw, for the report.

    Raises:
        ValueError: if a value lies outside its range.
    """
    delta = checked_share("delta", delta)
    significance = 1 - checked_share("confidence", confidence)
    family = GaussianCurves() if curves is None else curves
    leakage = smallest_accepted(family, lambda curve: rejects(curve, significance))
    return EpsilonBound(
        method=f"one run, {family.name} curve",
        epsilon=family.epsilon(leakage, delta),
        delta=delta,
        confidence=confidence,
        validity="model-based",
        assumption=family.assumption,
        numbers={**numbers, "leakage": leakage},
    )
