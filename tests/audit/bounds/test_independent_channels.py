"""The bound of independent channels: known values, quadrature and simulated attacks."""

import itertools

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from dpjax.audit import independent_channels_epsilon
from dpjax.audit.bounds.curves import GaussianCurves
from dpjax.audit.bounds.independent_channels import _tail

CASES = [
    (1000, 100, 26, 1.192579),
    (1000, 250, 75, 1.420289),
    (1000, 1000, 401, 1.413989),
    (10000, 1000, 259, 1.743702),
    (1000, 100, 10, 3.164460),
    (1000, 250, 36, 3.632685),
    (1000, 500, 103, 3.755741),
    (1000, 1000, 309, 3.670046),
    (10000, 2500, 364, 4.137078),
    (1000, 500, 20, 8.921568),
    (10000, 5000, 202, 9.652611),
]


def epsilon(n, r, errors, **options):
    return independent_channels_epsilon(
        num_canaries=n, num_guesses=r, num_correct=r - errors, **{"delta": 1e-5} | options
    ).epsilon


# The values of a coarser quadrature: three of them are off in the sixth digit.
@pytest.mark.parametrize(("n", "r", "errors", "expected"), CASES)
def test_epsilon_of_known_guesses(n, r, errors, expected):
    assert epsilon(n, r, errors) == pytest.approx(expected, rel=2e-6)


def tail_by_adaptive_quadrature(n, r, errors, mu):
    level = stats.beta(n - r, r + 1)

    def integrand(w):
        z = optimize.brentq(
            lambda z: special.ndtr(z - mu / 2) - special.ndtr(-z - mu / 2) - w, 0, 40, xtol=1e-14
        )
        error_rate = special.ndtr(-z - mu / 2) / (1 - w)
        return level.pdf(w) * stats.binom.cdf(errors, r, error_rate)

    ends = np.clip(level.mean() + level.std() * np.arange(-9, 10, 3), 0, 1)
    parts = [
        integrate.quad(integrand, *pair, epsabs=1e-13, epsrel=1e-11)[0]
        for pair in itertools.pairwise(ends)
    ]
    return sum(parts)


@pytest.mark.parametrize(("n", "r", "errors", "expected"), [CASES[4], CASES[8]])
def test_the_quadrature_is_exact(n, r, errors, expected):
    mu = 0.9
    assert _tail(n, r, errors, mu) == pytest.approx(
        tail_by_adaptive_quadrature(n, r, errors, mu), rel=1e-9
    )
    at_bound = optimize.brentq(
        lambda mu: GaussianCurves().epsilon(mu, 1e-5) - epsilon(n, r, errors), 0.1, 3
    )
    assert tail_by_adaptive_quadrature(n, r, errors, at_bound) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(("n", "r", "mu"), [(40, 10, 0.5), (40, 40, 1.0), (60, 55, 0.0)])
def test_tail_is_that_of_simulated_scores(n, r, mu):
    rng = np.random.default_rng(0)
    coins = rng.random((20_000, n)) < 0.5
    scores = rng.normal(size=coins.shape) + np.where(coins, mu / 2, -mu / 2)
    largest = np.argsort(-np.abs(scores), axis=1)[:, :r]
    errors = np.take_along_axis((scores > 0) != coins, largest, axis=1).sum(axis=1)
    for most in (r // 4, r // 3, r // 2):
        assert _tail(n, r, most, mu) == pytest.approx((errors <= most).mean(), abs=0.015)


def test_epsilon_falls_with_errors_confidence_and_delta():
    assert epsilon(500, 100, 9) > epsilon(500, 100, 10) > epsilon(500, 100, 11)
    assert epsilon(500, 100, 10) > epsilon(500, 100, 10, confidence=0.99)
    assert epsilon(500, 100, 10) > epsilon(500, 100, 10, delta=1e-4)


def test_half_the_guesses_wrong_shows_nothing_and_none_wrong_is_finite():
    assert epsilon(500, 100, 50) == 0
    assert epsilon(3, 3, 0) == 0
    assert 10 < epsilon(1000, 1000, 0) < GaussianCurves().epsilon(8.0, 1e-5)
    assert epsilon(10**6, 10**6, 0) <= GaussianCurves().epsilon(8.0, 1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"delta": 0}, "delta must lie strictly between 0 and 1; got 0"),
        ({"confidence": 1}, "confidence must lie strictly between 0 and 1; got 1"),
    ],
)
def test_bad_numbers_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        epsilon(100, 50, 10, **changed)
