"""The bound of one run whose canaries' scores are independent: exact for Gaussian channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from dpjax.audit.bounds.bound import EpsilonBound
from dpjax.audit.bounds.curves import GaussianCurves
from dpjax.audit.bounds.one_run import checked_guesses
from dpjax.audit.membership.intervals import checked_share

# The trapezoidal rule in the logit of the level, where the integrand is smooth and ends in zeros.
_LOGITS = np.linspace(-36.0, 36.0, 577)
_LEVELS = special.expit(_LOGITS)
_WEIGHTS = (_LOGITS[1] - _LOGITS[0]) * _LEVELS * special.expit(-_LOGITS)


def independent_channels_epsilon(
    *,
    num_canaries: int,
    num_guesses: int,
    num_correct: int,
    delta: float,
    confidence: float = 0.95,
) -> EpsilonBound:
    """Returns the bound for canaries whose scores are independent Gaussian measurements.

    Each score is N(±μ/2, 1), plus for a canary that was included, and the r scores of largest
    absolute value are guessed by sign. Then the number of errors T has

        P[T ≤ u] = E_W[P[Bin(r, γ(W)) ≤ u]],  W ~ Beta(n − r, r + 1)

    where γ(w) = Φ(−z − μ/2) / (1 − w) and w = Φ(z − μ/2) − Φ(−z − μ/2), the share of absolute
    scores below z (Xiang and others 2025, arXiv:2509.08704). The bound is the ε at δ of the
    smallest μ with P[T ≤ u] ≥ 1 − `confidence`. It fails where canaries share randomness: use it
    for orthogonal gradient canaries, whose noise is independent, and for nothing else.

    Args:
        num_canaries: n, canaries with a fair coin each.
        num_guesses: r ≤ n, fixed before the scores were seen.
        num_correct: r − u.
        delta: in (0, 1).
        confidence: in (0, 1).

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.

    Example:
        >>> bound = independent_channels_epsilon(
        ...     num_canaries=1000, num_guesses=100, num_correct=74, delta=1e-5
        ... )
        >>> round(bound.epsilon, 6)
        1.192579
    """
    n, r, v = checked_guesses(num_canaries, num_guesses, num_correct)
    delta = checked_share("delta", delta)
    alpha = 1 - checked_share("confidence", confidence)
    curves = GaussianCurves()

    def excess(mu: float) -> float:
        return _tail(n, r, r - v, mu) - alpha

    if excess(0.0) >= 0:
        mu = 0.0
    elif excess(curves.most_leakage) < 0:
        mu = curves.most_leakage
    else:
        mu = float(optimize.brentq(excess, 0.0, curves.most_leakage, xtol=1e-12))
    return EpsilonBound(
        method="independent channels",
        epsilon=curves.epsilon(mu, delta),
        delta=delta,
        confidence=confidence,
        validity="model-based",
        assumption=(
            "The scores of the canaries are independent Gaussian measurements of their coins, as"
            " those of orthogonal gradient canaries are. Shared randomness makes the bound wrong."
        ),
        numbers={"num_canaries": n, "num_guesses": r, "num_correct": v, "mu": mu},
    )


def _tail(n: int, r: int, errors: int, mu: float) -> float:
    """Returns P[T ≤ errors]."""
    if r == n:
        # Every canary is guessed: there is no smallest absolute score to average over.
        return float(stats.binom.cdf(errors, r, special.ndtr(-mu / 2)))
    w = stats.beta.ppf(_LEVELS, n - r, r + 1)
    z = _absolute_score_quantile(w, mu)
    error_rate = np.clip(special.ndtr(-z - mu / 2) / (1 - w), 0.0, 0.5)
    return float(_WEIGHTS @ stats.binom.cdf(errors, r, error_rate))


def _absolute_score_quantile(w: NDArray[np.float64], mu: float) -> NDArray[np.float64]:
    """Returns z with Φ(z − μ/2) − Φ(−z − μ/2) = w, by bisection."""
    low, high = np.zeros_like(w), np.full_like(w, mu / 2 + 40.0)
    for _ in range(60):
        middle = (low + high) / 2
        is_below = special.ndtr(middle - mu / 2) - special.ndtr(-middle - mu / 2) < w
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    quantile: NDArray[np.float64] = (low + high) / 2
    return quantile
