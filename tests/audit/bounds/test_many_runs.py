"""Bounds from many independent runs: known values and how often they exceed the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from dpjax.audit import AttackCounts, clopper_pearson_epsilon, gaussian_epsilon


def counted(hits, positives, alarms, negatives):
    return AttackCounts(
        true_positives=hits,
        num_positives=positives,
        false_positives=alarms,
        num_negatives=negatives,
    )


@pytest.mark.parametrize(
    ("counts", "delta", "alpha", "expected"),
    [
        ((500, 500, 0, 500), 0, 0.01, 4.541916),
        ((1000, 1000, 0, 1000), 0, 0.05, 5.600588),
        ((100, 100, 0, 100), 0, 0.05, 3.281346),
        ((80, 100, 5, 100), 1e-5, 0.05, 1.836726),
        ((900, 1000, 100, 1000), 1e-5, 0.05, 1.989695),
        ((50, 1000, 2, 1000), 1e-5, 0.05, 1.644782),
        ((600, 1000, 400, 1000), 1e-5, 0.05, 0.277259),
        ((5000, 5000, 0, 5000), 1e-5, 0.05, 7.211492),
        # The second quotient is the larger one.
        ((100, 100, 20, 100), 0, 0.05, 2.973146),
        ((50, 100, 50, 100), 0, 0.05, 0.0),
        ((0, 100, 100, 100), 0, 0.05, 0.0),
        ((3, 3, 0, 3), 0, 0.05, 0.0),
    ],
)
def test_clopper_pearson_of_known_counts(counts, delta, alpha, expected):
    bound = clopper_pearson_epsilon(counted(*counts), delta=delta, confidence=1 - alpha)
    assert bound.epsilon == pytest.approx(expected, abs=1e-6)
    assert bound.validity == "certified"


@pytest.mark.parametrize("runs", [10, 500, 10_000])
def test_without_an_error_clopper_pearson_has_a_closed_form(runs):
    upper = 1 - 0.025 ** (1 / runs)
    bound = clopper_pearson_epsilon(counted(runs, runs, 0, runs), delta=0)
    assert bound.epsilon == pytest.approx(math.log((1 - upper) / upper), rel=1e-9)


@pytest.mark.parametrize(
    ("false_negatives", "positives", "false_positives", "negatives", "mu", "expected"),
    [
        (100, 1000, 100, 1000, 2.347097, 12.197563),
        (20, 100, 5, 100, 1.759598, 8.547615),
        (950, 1000, 2, 1000, 0.664354, 2.742586),
        (0, 1000, 0, 1000, 5.359823, 36.489488),
        (50, 100, 50, 100, 0.0, 0.0),
        (100, 100, 100, 100, 0.0, 0.0),
        (0, 3, 0, 3, 0.0, 0.0),
    ],
)
def test_gaussian_of_known_counts(
    false_negatives, positives, false_positives, negatives, mu, expected
):
    counts = counted(positives - false_negatives, positives, false_positives, negatives)
    bound = gaussian_epsilon(counts, delta=1e-5)
    assert bound.epsilon == pytest.approx(expected, abs=1e-6)
    assert bound.numbers == counts.to_dict() | {"mu": pytest.approx(mu, abs=1e-6)}
    assert bound.validity == "model-based"


@given(
    runs=st.integers(2, 400),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    delta=st.sampled_from([1e-6, 1e-3]),
)
@pytest.mark.parametrize("bound", [clopper_pearson_epsilon, gaussian_epsilon])
def test_bounds_are_monotone(bound, runs, shares, delta):
    hits, alarms = (int(share * (runs - 1)) for share in shares)

    def epsilon(more_hits=0, more_alarms=0, **changed):
        counts = counted(hits + more_hits, runs, alarms + more_alarms, runs)
        return bound(counts, **{"delta": delta, "confidence": 0.9} | changed).epsilon

    assert epsilon(more_hits=1) >= epsilon() >= epsilon(more_alarms=1)
    assert epsilon() >= epsilon(confidence=0.99)
    assert epsilon() >= epsilon(delta=2 * delta)


@pytest.mark.parametrize("threshold", [0.5, 1.5])
def test_the_truth_is_rarely_exceeded(threshold):
    """Runs of a Gaussian release, μ = 1, for which both bounds hold."""
    rng, runs = np.random.default_rng(0), 300
    hits = rng.binomial(runs, special.ndtr(1 - threshold), size=400)
    alarms = rng.binomial(runs, special.ndtr(-threshold), size=400)
    for bound in (clopper_pearson_epsilon, gaussian_epsilon):
        exceeds = [
            bound(counted(int(h), runs, int(a), runs), delta=1e-5).epsilon > 4.377178
            for h, a in zip(hits, alarms, strict=True)
        ]
        assert sum(exceeds) <= stats.binom.ppf(0.999, 400, 0.05)


@pytest.mark.parametrize("bound", [clopper_pearson_epsilon, gaussian_epsilon])
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"delta": 1}, ValueError, "delta must lie strictly between 0 and 1; got 1"),
        ({"confidence": 0}, ValueError, "confidence must lie strictly between 0 and 1; got 0"),
    ],
)
def test_bad_options_are_refused(bound, changed, error, message):
    with pytest.raises(error, match=message):
        bound(counted(50, 100, 50, 100), **{"delta": 1e-5} | changed)


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ((101, 100, 50, 100), ValueError, "true_positives must be between 0 and 100; got 101"),
        ((50, 100, -1, 100), ValueError, "false_positives must be between 0 and 100; got -1"),
        ((50, 100, 0, 0), ValueError, "num_negatives must be at least 1; got 0"),
        ((1, 1.5, 0, 1), TypeError, "num_positives must be a whole number; got 1.5"),
        ((0.5, 1, 0, 1), TypeError, r"true_positives must be a whole number; got 0\.5"),
    ],
)
def test_bad_counts_are_refused(counts, error, message):
    with pytest.raises(error, match=message):
        counted(*counts)


def test_a_gaussian_bound_needs_a_delta():
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1; got 0"):
        gaussian_epsilon(counted(50, 100, 5, 100), delta=0)
