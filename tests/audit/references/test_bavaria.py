"""BaVarIA's closed form against integrals of its prior, and its two limits against LiRA."""

import numpy as np
import pytest
from scipy import integrate, stats

from dpjax.audit import bavaria_scores, lira_scores

RNG = np.random.default_rng(0)
MEMBERSHIP = np.array([[True, True], [True, False], [False, False], [False, False], [True, False]])
SHADOWS = RNG.normal(MEMBERSHIP * 2.0, [1.0, 0.4])
TARGETS = np.array([1.3, -0.7])


def predictive_density(target, scores, prior_shadows, pooled):
    """∫∫ N(target; μ, v) Π N(scoreᵢ; μ, v) InvGamma(v; ν₀/2, ν₀s²/2) dμ dv, normalised."""
    prior = stats.invgamma(prior_shadows / 2, scale=prior_shadows * pooled / 2)

    def over_mean(values, v):
        """∫ Π N(valueᵢ; μ, v) dμ, by completing the square."""
        n = len(values)
        spread = np.sum((values - np.mean(values)) ** 2)
        return np.exp(-spread / (2 * v)) * (2 * np.pi * v) ** (-(n - 1) / 2) / np.sqrt(n)

    def integral(values):
        def integrand(log_v):
            v = np.exp(log_v)
            return over_mean(values, v) * prior.pdf(v) * v

        return integrate.quad(integrand, -12, 25, limit=400)[0]

    return integral(np.append(scores, target)) / integral(scores)


def pooled_variance(membership):
    columns = [SHADOWS[m, j] for j, m in enumerate(membership.T)]
    squares = sum(np.sum((x - x.mean()) ** 2) for x in columns)
    return squares / sum(len(x) - 1 for x in columns)


@pytest.mark.parametrize("prior_shadows", [1.5, 4.0])
def test_closed_form_is_the_integral_over_the_prior(prior_shadows):
    scores = bavaria_scores(TARGETS, SHADOWS, MEMBERSHIP, prior_shadows=prior_shadows)
    for j, (target, score) in enumerate(zip(TARGETS, scores, strict=True)):
        log_in, log_out = (
            np.log(
                predictive_density(target, SHADOWS[m[:, j], j], prior_shadows, pooled_variance(m))
            )
            for m in (MEMBERSHIP, ~MEMBERSHIP)
        )
        assert score == pytest.approx(log_in - log_out, rel=1e-6)


def test_offline_score_is_the_predictive_probability():
    scores = bavaria_scores(TARGETS, SHADOWS, MEMBERSHIP, offline=True, prior_shadows=4.0)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    pooled = pooled_variance(~MEMBERSHIP)
    for j, score in enumerate(scores):
        outside = SHADOWS[~MEMBERSHIP[:, j], j]
        # Half of it lies below the mean.
        half = (TARGETS[j] - outside.mean()) / 2
        densities = [
            predictive_density(outside.mean() + half * (1 + node), outside, 4.0, pooled)
            for node in nodes
        ]
        assert stats.norm.cdf(score) == pytest.approx(0.5 + half * weights @ densities, rel=1e-5)


def test_a_strong_prior_gives_the_pooled_gaussian():
    """But for the variance of the mean, which many shadows make vanish."""
    rng = np.random.default_rng(2)
    membership = rng.permuted(np.arange(4000)[:, None] < np.full(3, 2000), axis=0)
    data = rng.normal(1, 1, 3), rng.normal(membership * 1.0, [1, 2, 3]), membership
    scores = bavaria_scores(*data, prior_shadows=1e9)
    np.testing.assert_allclose(scores, lira_scores(*data, variance="pooled"), rtol=0.01, atol=2e-3)
    scores = bavaria_scores(*data, prior_shadows=1e-9, offline=True)
    gaussian = lira_scores(*data, variance="record", offline=True)
    np.testing.assert_allclose(scores, gaussian, rtol=0.01, atol=2e-3)


def test_far_scores_keep_their_order():
    far = np.array([20.0, 40.0, -30.0])
    shadows = np.tile(RNG.normal(size=(64, 1)), 3)
    scores = bavaria_scores(far, shadows, np.zeros((64, 3), bool), offline=True)
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0] + 1 > 1 > -1 > scores[2]


def test_fewer_shadows_say_less():
    membership = np.zeros((8, 2), bool)
    membership[2:, 1] = True
    shadows = np.tile([[0.0], [1.0]], (4, 2))
    few, many = bavaria_scores([4.0, 4.0], shadows, membership, offline=True)[::-1]
    assert 0 < few < many


@pytest.mark.parametrize("prior_shadows", [0.0, -1.0, np.inf, np.nan])
def test_an_improper_prior_is_refused(prior_shadows):
    with pytest.raises(ValueError, match="prior_shadows must be positive and finite"):
        bavaria_scores(TARGETS, SHADOWS, MEMBERSHIP, prior_shadows=prior_shadows)
