"""The ceiling on a membership test against mechanisms whose exact ROC is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dpjax_accounting import tpr_ceiling
from scipy import stats

RATES = np.concatenate([[0.0], np.geomspace(1e-9, 1, 2000)])


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0])
def test_randomised_response_lies_on_the_ceiling(epsilon):
    truthful = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert tpr_ceiling(1 - truthful, epsilon=epsilon, delta=0.0) == pytest.approx(
        truthful, rel=1e-12
    )


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_gaussian_roc_touches_the_ceiling_and_stays_below(mu, epsilon):
    delta = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(
        -mu / 2 - epsilon / mu
    )
    roc = stats.norm.cdf(stats.norm.ppf(RATES) + mu)
    gap = tpr_ceiling(RATES, epsilon=epsilon, delta=delta) - roc
    assert gap.min() > -1e-12
    touching = stats.norm.cdf(-mu / 2 - epsilon / mu)
    roc_there = stats.norm.cdf(stats.norm.ppf(touching) + mu)
    assert tpr_ceiling(touching, epsilon=epsilon, delta=delta) == pytest.approx(roc_there, rel=1e-9)


def test_formula_shape_and_ends():
    rates = np.array([[0.0, 0.01], [0.3, 1.0]])
    got = tpr_ceiling(rates, epsilon=1.0, delta=1e-3)
    naive = np.minimum(math.e * rates + 1e-3, 1 - (1 - 1e-3 - rates) / math.e)
    assert got.shape == (2, 2)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.minimum(1, naive), rtol=1e-12)
    assert got[0, 0] == 1e-3
    assert got[1, 1] == 1.0


def test_no_privacy_loss_is_guessing():
    np.testing.assert_allclose(tpr_ceiling(RATES, epsilon=0.0, delta=0.0), RATES, rtol=1e-12)


def test_ceiling_grows_with_each_argument():
    assert np.all(np.diff(tpr_ceiling(RATES, epsilon=2.0, delta=1e-5)) >= 0)
    assert np.all(
        tpr_ceiling(RATES, epsilon=2.1, delta=1e-5) >= tpr_ceiling(RATES, epsilon=2.0, delta=1e-5)
    )
    assert np.all(
        tpr_ceiling(RATES, epsilon=2.0, delta=2e-5) >= tpr_ceiling(RATES, epsilon=2.0, delta=1e-5)
    )


def test_large_epsilon_overflows_nothing():
    np.testing.assert_array_equal(
        tpr_ceiling([0.0, 1e-9, 1.0], epsilon=1e4, delta=1e-5), [1e-5, 1.0, 1.0]
    )


@pytest.mark.parametrize(
    ("fpr", "epsilon", "delta", "words"),
    [
        (-0.1, 1.0, 0.0, "fpr must lie between 0 and 1"),
        ([0.5, 1.1], 1.0, 0.0, "fpr must lie between 0 and 1"),
        (float("nan"), 1.0, 0.0, "fpr must lie between 0 and 1"),
        (0.5, -1.0, 0.0, "epsilon must be at least 0"),
        (0.5, float("inf"), 0.0, "epsilon must be finite"),
        (0.5, 1.0, 1.1, "delta must lie between 0 and 1"),
        (0.5, 1.0, -0.1, "delta must lie between 0 and 1"),
    ],
)
def test_refusals(fpr, epsilon, delta, words):
    with pytest.raises(ValueError, match=words):
        tpr_ceiling(fpr, epsilon=epsilon, delta=delta)
