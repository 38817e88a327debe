"""The exact ε and δ of Gaussian releases without sampling."""

from __future__ import annotations

import math


def gaussian_log_delta(epsilon: float, mu: float) -> float:
    """Returns log δ of a Gaussian mechanism at `epsilon`.

    δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) (Balle and Wang 2018, theorem 8), in logarithms.

    Args:
        epsilon: at least 0.
        mu: sensitivity / noise standard deviation, above 0; √Σμᵢ² for several releases.
    """
    from scipy import special

    first = float(special.log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(special.log_ndtr(-mu / 2 - epsilon / mu))
    if second >= first:
        return -math.inf
    return first + math.log(-math.expm1(second - first))


def gaussian_epsilon(delta: float, mu: float) -> float:
    """Returns the ε of a Gaussian mechanism at `delta`, at most 1e-12 of it too large.

    Args:
        delta: between 0 and 1.
        mu: as for :func:`gaussian_log_delta`.
    """
    from scipy import optimize

    target = math.log(delta)
    if gaussian_log_delta(0.0, mu) <= target:
        return 0.0
    # P[loss > ε] ≥ δ, and the loss is N(μ²/2, μ²) with a tail below exp(-z²/2).
    largest = mu * (mu / 2 + math.sqrt(-2 * target) + 1)
    epsilon = optimize.brentq(
        lambda e: max(gaussian_log_delta(e, mu), -1e6) - target,
        0.0,
        largest,
        rtol=1e-14,
        xtol=1e-300,
    )
    return float(epsilon * (1 + 1e-12))
