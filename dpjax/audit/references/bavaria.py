"""BaVarIA: LiRA with a prior on the variance, hence Student-t instead of Gaussian likelihoods."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dpjax.audit.references.sides import Side, split_sides


def bavaria_scores(
    target_scores: ArrayLike,
    shadow_scores: ArrayLike,
    membership: ArrayLike,
    *,
    offline: bool = False,
    prior_shadows: float = 2.0,
) -> NDArray[np.float64]:
    """Returns LiRA's ratio with predictive densities that know how few shadows there are.

    Brännvall 2026 ("Exponential-Family Membership Inference", arXiv:2603.11799): a conjugate
    normal-inverse-gamma prior takes the place of the choice between a variance of each record's own
    and a pooled one. For one side of one record, let φ₁ … φ_k ~ N(μ, σ²) be its scores and
    (μ, σ²) ~ NIG(m₀, κ₀, α₀, β₀), that is σ² ~ InvGamma(α₀, β₀) and μ | σ² ~ N(m₀, σ² / κ₀). The
    posterior is of the same kind with (Murphy 2007, "Conjugate Bayesian analysis of the Gaussian
    distribution", section 6)

        κ = κ₀ + k,  m = (κ₀ m₀ + k φ̄) / κ,  α = α₀ + k / 2,
        β = β₀ + ½ Σ (φᵢ − φ̄)² + κ₀ k (φ̄ − m₀)² / (2 κ),

    and one more score is distributed as Student's t with 2α degrees of freedom, location m and
    squared scale β (κ + 1) / (α κ). Here nothing is assumed of a record's mean: p(μ) ∝ 1, which
    replaces κ₀ by 0 and k / 2 in α by (k − 1) / 2. The prior on the variance is worth ν₀ shadows
    and is centred at s², the pooled variance of that side (empirical Bayes): α₀ = ν₀ / 2,
    β₀ = ν₀ s² / 2. The predictive density then is

        t with ν = ν₀ + k − 1,  location φ̄,  scale² = (ν₀ s² + Σ (φᵢ − φ̄)²) / ν · (1 + 1 / k).

    These values of the prior are dpjax's choice. A large ν₀ gives LiRA with pooled variance, ν₀ → 0
    a variance of each record's own. Online the score is log t_in(φ) − log t_out(φ). Offline it is
    the z with Φ(z) = P[t_out ≤ φ]: a record with fewer shadows needs a larger deviation for the
    same score.

    Args:
        target_scores: (n,) scores φ under the attacked model, as for `lira_scores`.
        shadow_scores: (k, n) scores of the same records under k shadow models.
        membership: (k, n) bool, True where a shadow was trained on a record. Records may have
            unequal numbers of shadows on both sides.
        offline: use only the shadows that left the record out.
        prior_shadows: ν₀ > 0, how many shadows the prior on the variance is worth.

    Returns:
        (n,) float64, higher for members; descriptive, as `lira_scores`.

    Raises:
        TypeError: scores are not numbers, or membership is not boolean.
        ValueError: shapes do not fit; a score is NaN or infinite; a record was left out by no
            shadow or, online, in none; no record has two shadows on a side, or no score varies;
            `prior_shadows` is not positive and finite.

    Example:
        The second record has fewer shadows: the same deviation counts for less.

        >>> shadows = [[0.0, 0.0], [1.0, 1.0], [0.0, 9.0], [1.0, 9.0]]
        >>> is_in = [[False, False], [False, False], [False, True], [False, True]]
        >>> bavaria_scores([3.0, 3.0], shadows, is_in, offline=True).round(3).tolist()
        [2.487, 1.953]
    """
    if not (np.isfinite(prior_shadows) and prior_shadows > 0):
        raise ValueError(f"prior_shadows must be positive and finite, got {prior_shadows}")
    targets, inside, outside = split_sides(
        target_scores, shadow_scores, membership, needs_in=not offline
    )
    freedom, t_out, log_out = _predict(targets, outside, "out", prior_shadows)
    if offline:
        # The tail of the nearer side: the other one rounds to 1.
        return np.sign(t_out) * stats.norm.isf(stats.t.sf(np.abs(t_out), freedom))
    _, _, log_in = _predict(targets, inside, "in", prior_shadows)
    return log_in - log_out


def _predict(
    targets: NDArray[np.float64], side: Side, name: str, prior_shadows: float
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Degrees of freedom, standardised scores and log-densities of the predictive, (n,) each."""
    number = side.number
    freedom = prior_shadows + number - 1
    spread = prior_shadows * side.pooled_variance(name) + side.sum_of_squares
    scale = np.sqrt(spread / freedom * (1 + 1 / number))
    standardised = (targets - side.mean) / scale
    return freedom, standardised, stats.t.logpdf(standardised, freedom) - np.log(scale)
