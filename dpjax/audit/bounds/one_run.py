"""The bound of one training run that holds for every (ε, δ): many canaries, one coin each."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from dpjax.audit.bounds.bound import EpsilonBound, checked_count, checked_delta
from dpjax.audit.membership.intervals import checked_share

# Bounds are searched up to here. All of 1e15 guesses would have to be right for more.
LARGEST_EPSILON = 40.0
SEARCHED = [*np.linspace(0.0, 4.0, 33).tolist(), *np.linspace(4.25, LARGEST_EPSILON, 144).tolist()]
ASSUMPTION = (
    "Each canary was included by a fair coin of its own, and the guesses saw the coins only through"
    " the output of training."
)


def one_run_p_value(
    *, num_canaries: int, num_guesses: int, num_correct: int, epsilon: float, delta: float
) -> float:
    """Returns how likely so many correct guesses are under (ε, δ)-differential privacy, at most.

    With q = e^ε / (1 + e^ε) and W ~ Binomial(r, q),

        p = P[W ≥ v] + 2 m δ max over 1 ≤ i ≤ v of P[v − i ≤ W < v] / i

    (Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run",
    theorem 5.2). The guesses may be of both kinds, in and out.

    Args:
        num_canaries: m, canaries with a coin.
        num_guesses: r ≤ m; the attack abstains on the rest.
        num_correct: v ≤ r.
        epsilon: at least 0.
        delta: in [0, 1).

    Returns:
        A probability.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.

    Example:
        >>> p = one_run_p_value(
        ...     num_canaries=1000, num_guesses=100, num_correct=90, epsilon=1.0, delta=1e-5
        ... )
        >>> round(p, 9)
        0.000841289
    """
    num_canaries, num_guesses, num_correct = checked_guesses(num_canaries, num_guesses, num_correct)
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0; got {epsilon}.")
    return _p_value(
        num_canaries, num_guesses, num_correct, epsilon=epsilon, delta=checked_delta(delta)
    )


def one_run_epsilon(
    *,
    num_canaries: int,
    num_guesses: int,
    num_correct: int,
    delta: float,
    confidence: float = 0.95,
) -> EpsilonBound:
    """Returns the smallest ε that so many correct guesses do not contradict.

    Certified for one number of guesses that was fixed before the scores were seen. For several,
    see :func:`dpjax.audit.certify`.

    Args:
        num_canaries: m, canaries with a fair coin each.
        num_guesses: r ≤ m.
        num_correct: v ≤ r.
        delta: in [0, 1).
        confidence: 1 − α.

    Returns:
        The bound, :func:`one_run_p_value` ≥ α at its ε. At most 40.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.

    Example:
        >>> bound = one_run_epsilon(
        ...     num_canaries=1000, num_guesses=100, num_correct=90, delta=1e-5
        ... )
        >>> round(bound.epsilon, 6)
        1.626143
    """
    counts = checked_guesses(num_canaries, num_guesses, num_correct)
    delta = checked_delta(delta)
    alpha = 1 - checked_share("confidence", confidence)
    return EpsilonBound(
        method="one run",
        epsilon=smallest_not_rejected(
            lambda epsilon: _p_value(*counts, epsilon=epsilon, delta=delta) - alpha
        ),
        delta=delta,
        confidence=confidence,
        validity="certified",
        assumption=ASSUMPTION,
        numbers=dict(zip(("num_canaries", "num_guesses", "num_correct"), counts, strict=True)),
    )


def checked_guesses(num_canaries: int, num_guesses: int, num_correct: int) -> tuple[int, int, int]:
    """Returns the three counts if num_correct ≤ num_guesses ≤ num_canaries, or raises.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if one is larger than the next, or `num_guesses` is 0.
    """
    num_canaries = checked_count("num_canaries", num_canaries, least=1)
    num_guesses = checked_count("num_guesses", num_guesses, least=1, most=num_canaries)
    return (
        num_canaries,
        num_guesses,
        checked_count("num_correct", num_correct, least=0, most=num_guesses),
    )


def smallest_not_rejected(excess: Callable[[float], float]) -> float:
    """Returns the smallest ε ≥ 0 where `excess`, a p-value minus its level, is not negative.

    Looked for on a grid of 177 values up to 40 and between two of them, where `excess` must cross
    zero once. :func:`one_run_p_value` rises with ε as long as it is below ½.

    Args:
        excess: a function of ε.
    """
    previous = 0.0
    for epsilon in SEARCHED:
        if excess(epsilon) >= 0:
            if epsilon == 0:
                return 0.0
            return float(optimize.brentq(excess, previous, epsilon, xtol=1e-12))
        previous = epsilon
    return LARGEST_EPSILON


def _p_value(m: int, r: int, v: int, *, epsilon: float, delta: float) -> float:
    if v == 0:
        return 1.0
    q = special.expit(epsilon)
    at_least_v = float(stats.binom.sf(v - 1, r, q))
    if delta == 0:
        return at_least_v
    return min(1.0, at_least_v + 2 * m * delta * _largest_gain(r, v, q))


def _largest_gain(r: int, v: int, q: float) -> float:
    """Returns the maximum over i of P[v − i ≤ W < v] / i."""
    below: NDArray[np.float64] = stats.binom.pmf(np.arange(v - 1, -1, -1), r, q)
    return float((np.cumsum(below) / np.arange(1, v + 1)).max())


def largest_possible_epsilon(*, num_guesses: int, confidence: float) -> float:
    """Returns the bound if every guess is right and δ = 0: log of the odds of α^(1/r).

    Args:
        num_guesses: r.
        confidence: 1 − α.

    Example:
        >>> round(largest_possible_epsilon(num_guesses=100, confidence=0.95), 6)
        3.492965
    """
    return max(0.0, -math.log(math.expm1(-math.log(1 - confidence) / num_guesses)))
