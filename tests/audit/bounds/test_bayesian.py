"""The credible interval of ε: known values, a two-dimensional quadrature, and its shape."""

import numpy as np
import pytest
from scipy import stats

from dpjax.audit import AttackCounts, bayesian_epsilon, credible_interval
from dpjax.audit.bounds.bayesian import posterior_probability

CASES = [
    ((100, 1000, 100, 1000), 2.085125, 2.417705, 2.109519),
    ((20, 100, 5, 100), 2.008199, 3.722386, 2.112033),
    ((950, 1000, 2, 1000), 2.017907, 4.808317, 2.173581),
    ((0, 500, 0, 500), 6.216384, 15.207002, 6.513148),
]


def counted(false_negatives, positives, false_positives, negatives):
    return AttackCounts(
        true_positives=positives - false_negatives,
        num_positives=positives,
        false_positives=false_positives,
        num_negatives=negatives,
    )


@pytest.mark.parametrize(("counts", "low", "high", "one_sided"), CASES)
def test_intervals_of_known_counts(counts, low, high, one_sided):
    interval = credible_interval(counted(*counts), delta=1e-5)
    assert interval == pytest.approx((low, high), abs=1e-6)
    bound = bayesian_epsilon(counted(*counts), delta=1e-5)
    assert bound.epsilon == pytest.approx(one_sided, abs=1e-6)
    assert bound.validity == "model-based"


def test_interval_of_a_published_example():
    """Of the README of microsoft/privacy-estimates, which prints 0.145 and 6.399 to 1e-2."""
    interval = credible_interval(counted(0, 487, 512, 513), delta=1e-5, confidence=0.9)
    assert interval == pytest.approx((0.143895, 6.415596), abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.05])
def test_the_posterior_is_that_of_many_draws(epsilon, delta):
    counts = counted(12, 40, 9, 50)
    rng = np.random.default_rng(0)
    fnr = stats.beta(12.5, 28.5).rvs(400_000, random_state=rng)
    fpr = stats.beta(9.5, 41.5).rvs(400_000, random_state=rng)
    steep = np.exp(epsilon)
    pairs = [(fnr, fpr), (fpr, fnr), (1 - fnr, 1 - fpr), (1 - fpr, 1 - fnr)]
    possible = np.logical_and.reduce([x + steep * y >= 1 - delta for x, y in pairs])
    probability = posterior_probability(epsilon, counts=counts, delta=delta)
    assert probability == pytest.approx(possible.mean(), abs=0.004)


def test_the_posterior_rises_with_epsilon_and_delta():
    counts = counted(12, 40, 9, 50)
    for values in (
        [posterior_probability(e, counts=counts, delta=1e-5) for e in np.linspace(0, 5, 21)],
        [posterior_probability(1.5, counts=counts, delta=d) for d in (0, 1e-5, 1e-2, 0.1)],
    ):
        assert (np.diff(values) >= 0).all()
    assert posterior_probability(50.0, counts=counts, delta=0) == pytest.approx(1.0, abs=1e-9)


def test_fewer_errors_and_less_confidence_give_more():
    def epsilon(counts, confidence=0.95):
        return bayesian_epsilon(counted(*counts), delta=1e-5, confidence=confidence).epsilon

    assert epsilon((0, 500, 0, 500)) > epsilon((1, 500, 0, 500)) > epsilon((5, 500, 5, 500))
    assert epsilon((5, 500, 5, 500), 0.8) > epsilon((5, 500, 5, 500))
    assert epsilon((50, 100, 50, 100)) < 0.05


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"delta": -1}, ValueError, "delta must lie strictly between 0 and 1; got -1"),
        ({"confidence": 1}, ValueError, "confidence must lie strictly between 0 and 1; got 1"),
    ],
)
def test_bad_options_are_refused(changed, error, message):
    options = {"delta": 1e-5} | changed
    for function in (bayesian_epsilon, credible_interval):
        with pytest.raises(error, match=message):
            function(counted(50, 100, 50, 100), **options)
