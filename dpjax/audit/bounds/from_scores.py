"""Bounds from the scores of one run, valid for a plan of several guess counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import signal, special, stats

from dpjax.audit.bounds.bound import EpsilonBound, checked_delta
from dpjax.audit.bounds.curves import CurveFamily, LeastProbability
from dpjax.audit.bounds.guesses import DEFAULT_PLAN, Guesses, GuessPlan, count_correct
from dpjax.audit.bounds.one_run import (
    ASSUMPTION,
    SEARCHED,
    one_run_p_value,
    smallest_not_rejected,
)
from dpjax.audit.bounds.one_run_fdp import bound_of_family, is_rejected
from dpjax.audit.membership.intervals import checked_share

# The joint p-value adds m δ; above this share of α the sum of single p-values is the better one.
_LARGEST_JOINT_SHARE = 0.25
# Of ε, below the smallest that is not rejected.
_TOLERANCE = 1e-6
# Less likely outcomes of a segment of guesses count as a crossing.
_NEGLIGIBLE = 1e-25


def epsilon_from_scores(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    plan: GuessPlan = DEFAULT_PLAN,
) -> EpsilonBound:
    """Returns the certified bound of one run: valid for every (ε, δ)-DP training procedure.

    The smallest ε at which :func:`joint_p_value` of the plan's guesses reaches 1 − `confidence`.

    Args:
        scores: (m,) numbers, higher for members; infinities are allowed.
        included: (m,) truth values, a fair coin for each canary.
        delta: in [0, 1).
        confidence: in (0, 1).
        plan: how many guesses are made; fixed before the scores were seen.

    Raises:
        TypeError: if the scores are not numbers or the coins not truth values.
        ValueError: if the scores hold NaN, a value lies outside its range, or the coins cannot be
            fair ones.

    Example:
        >>> included = np.arange(1000) % 2 == 0
        >>> round(epsilon_from_scores(included * 1.0, included, delta=1e-5).epsilon, 3)
        5.514
    """
    guesses = count_correct(scores, included, plan)
    num_canaries = len(np.asarray(included))
    return EpsilonBound(
        method="one run",
        epsilon=epsilon_of_guesses(
            guesses, num_canaries=num_canaries, delta=delta, confidence=confidence
        ),
        delta=delta,
        confidence=confidence,
        validity="certified",
        assumption=ASSUMPTION,
        numbers=_numbers(guesses, num_canaries),
    )


def epsilon_of_guesses(
    guesses: Sequence[Guesses], *, num_canaries: int, delta: float, confidence: float
) -> float:
    """Returns the smallest ε at which :func:`joint_p_value` reaches 1 − `confidence`.

    The joint p-value falls a little wherever, as ε grows, one more guess of some step must be right
    for a crossing. So intervals of ε are rejected as a whole, each by the least numbers of right
    guesses at its lower end and the probabilities at its upper one, and are halved until the first
    that is not is 1e-6 long; its lower end is returned.

    Args:
        guesses: of each step of a plan.
        num_canaries: m.
        delta: in [0, 1).
        confidence: in (0, 1).

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.
    """
    delta = checked_delta(delta)
    alpha = 1 - checked_share("confidence", confidence)
    if not _is_joint(num_canaries * delta, alpha):
        return smallest_not_rejected(
            lambda epsilon: (
                joint_p_value(
                    guesses,
                    num_canaries=num_canaries,
                    epsilon=epsilon,
                    delta=delta,
                    significance=alpha,
                )
                - alpha
            )
        )

    def is_rejected_between(low: float, high: float) -> bool:
        crossing = _crossing_probability(guesses, lowest=low, highest=high)
        return crossing + num_canaries * delta < alpha

    return _first_not_rejected(is_rejected_between)


def fdp_epsilon_from_scores(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    plan: GuessPlan = DEFAULT_PLAN,
    curves: CurveFamily | None = None,
) -> EpsilonBound:
    """Returns the model-based bound of one run for a family of trade-off functions.

    A function is rejected where one of the plan's K steps rejects it at level
    (1 − `confidence`) / K: Bonferroni's correction, valid for any dependence.

    Args:
        scores: (m,) numbers, higher for members; infinities are allowed.
        included: (m,) truth values, a fair coin for each canary.
        delta: at which the bound is stated, in (0, 1).
        confidence: in (0, 1).
        plan: how many guesses are made; fixed before the scores were seen.
        curves: the family. Default: Gaussian ones.

    Raises:
        TypeError: as for :func:`epsilon_from_scores`.
        ValueError: as for :func:`epsilon_from_scores`.

    Example:
        >>> included = np.arange(1000) % 2 == 0
        >>> round(fdp_epsilon_from_scores(included * 1.0, included, delta=1e-5).epsilon, 3)
        9.157
    """
    guesses = count_correct(scores, included, plan)
    num_canaries = len(np.asarray(included))
    return bound_of_family(
        curves,
        lambda curve, significance: is_rejected_by_a_step(
            curve, guesses, num_canaries=num_canaries, significance=significance
        ),
        delta=delta,
        confidence=confidence,
        numbers=_numbers(guesses, num_canaries),
    )


def is_rejected_by_a_step(
    least_probability: LeastProbability,
    guesses: Sequence[Guesses],
    *,
    num_canaries: int,
    significance: float,
) -> bool:
    """Returns whether one of K steps rejects a trade-off function at level `significance` / K.

    Args:
        least_probability: as for :func:`dpjax.audit.bounds.one_run_fdp.is_rejected`.
        guesses: of each step of a plan.
        num_canaries: m.
        significance: of all steps together.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.
    """
    return any(
        is_rejected(
            least_probability,
            num_canaries=num_canaries,
            num_guesses=step.num_guesses,
            num_correct=step.num_correct,
            significance=significance / len(guesses),
        )
        for step in guesses
    )


def joint_p_value(
    guesses: Sequence[Guesses],
    *,
    num_canaries: int,
    epsilon: float,
    delta: float,
    significance: float = 0.05,
) -> float:
    """Returns how likely one of a plan's steps is to be so good under (ε, δ)-DP, at most.

    While m δ ≤ `significance` / 4, it is P[W crosses] + m δ. W is a sum of independent
    Bernoulli(e^ε / (1 + e^ε)) in the order of the guesses, and it crosses if, after the guesses of
    some step, it is as unlikely as the most unlikely step observed. Why that is a bound is shown in
    docs/audit/bounds.md. Otherwise it is the sum over the steps of
    :func:`one_run_p_value`'s bound, by Bonferroni's correction: K times the least.

    Args:
        guesses: of each step, with growing numbers.
        num_canaries: m.
        epsilon: at least 0.
        delta: in [0, 1).
        significance: the level that the p-value will be compared with; decides which of the two
            is computed.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.

    Example:
        >>> steps = [Guesses(20, 18), Guesses(100, 85)]
        >>> p = joint_p_value(steps, num_canaries=1000, epsilon=1.0, delta=0.0)
        >>> round(p, 6)
        0.005269
    """
    slack = num_canaries * delta
    if not _is_joint(slack, significance):
        singles = [
            one_run_p_value(
                num_canaries=num_canaries,
                num_guesses=step.num_guesses,
                num_correct=step.num_correct,
                epsilon=epsilon,
                delta=delta,
            )
            for step in guesses
        ]
        return min(1.0, len(singles) * min(singles))
    return min(1.0, _crossing_probability(guesses, lowest=epsilon, highest=epsilon) + slack)


def _is_joint(slack: float, significance: float) -> bool:
    return slack <= _LARGEST_JOINT_SHARE * significance


def _crossing_probability(guesses: Sequence[Guesses], *, lowest: float, highest: float) -> float:
    """Returns P[P[Bin(r_j, q) ≥ W_j] ≤ the least such value observed, for some step j].

    W is a walk of Bernoulli(q) steps. For every ε between `lowest` and `highest`, at most.
    """
    totals = np.array([step.num_guesses for step in guesses])
    correct = np.array([step.num_correct for step in guesses])
    q_low, q = special.expit(lowest), special.expit(highest)
    # A step's own p-value comes out a rounding error apart in other summations.
    level = stats.binom.sf(correct - 1, totals, q).min() * (1 + 1e-9)
    # staying[w] is the probability of `first + w` right guesses without a crossing.
    staying, first, crossed, before = np.ones(1), 0, 0.0, 0
    for total in totals:
        segment = stats.binom.pmf(np.arange(total - before + 1), total - before, q)
        likely = np.flatnonzero(segment > _NEGLIGIBLE)
        crossed += float(segment[: likely[0]].sum() + segment[likely[-1] + 1 :].sum())
        staying = signal.convolve(staying, segment[likely[0] : likely[-1] + 1], method="direct")
        first += int(likely[0])
        tails = stats.binom.sf(np.arange(first, first + len(staying)) - 1, total, q_low)
        crosses = tails <= level
        crossed += float(staying[crosses].sum())
        staying[crosses] = 0.0
        before = total
    return crossed


def _first_not_rejected(is_rejected_between: Callable[[float, float], bool]) -> float:
    """Returns the lower end of the first short interval that is not rejected as a whole."""
    if not is_rejected_between(0.0, 0.0):
        return 0.0
    # The next interval is on top.
    ends = [*SEARCHED[::-1]]
    low = ends.pop()
    while ends:
        high = ends[-1]
        if is_rejected_between(low, high):
            low = ends.pop()
        elif high - low <= _TOLERANCE:
            return low
        else:
            ends.append((low + high) / 2)
    return low


def _numbers(guesses: Sequence[Guesses], num_canaries: int) -> dict[str, object]:
    return {
        "num_canaries": num_canaries,
        "guesses": [step._asdict() for step in guesses],
    }
