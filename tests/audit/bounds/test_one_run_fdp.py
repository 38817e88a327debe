"""The bound of one run for a trade-off function: known values, and the algorithm on arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.audit import one_run_fdp_epsilon
from dpjax.audit.bounds.curves import GaussianCurves
from dpjax.audit.bounds.one_run_fdp import is_rejected


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "expected"),
    [
        (1000, 1000, 600, 1e-5, 0.583540),
        (1000, 100, 90, 1e-5, 2.456405),
        (1000, 100, 99, 1e-5, 4.726715),
        (5000, 500, 450, 1e-5, 2.776066),
        (10000, 1000, 741, 1e-5, 1.262554),
        (1000, 800, 500, 1e-6, 0.838816),
        (2000, 1500, 1000, 1e-6, 1.201062),
        (500, 100, 55, 1e-5, 0.0),
        (3, 3, 3, 1e-5, 0.0),
    ],
)
def test_epsilon_of_known_guesses(m, r, v, delta, expected):
    bound = one_run_fdp_epsilon(num_canaries=m, num_guesses=r, num_correct=v, delta=delta)
    assert bound.epsilon == pytest.approx(expected, abs=1e-6)
    assert (bound.validity, bound.method) == ("model-based", "one run, Gaussian curve")


def is_rejected_with_arrays(least, m, r, v, tau):
    """Algorithm 3 of Mahloujifar, Melis and Chaudhuri (2024), without an early end."""
    h, found = np.zeros(v + 1), np.zeros(v + 1)
    h[v], found[v] = tau * (r - v) / m, tau * v / m
    for i in range(v - 1, -1, -1):
        h[i] = max(h[i + 1], least(min(found[i + 1], 1.0)))
        found[i] = found[i + 1] + i / (r - i) * (h[i] - h[i + 1])
    return h[0] + found[0] > r / m


@given(
    guesses=st.integers(1, 80).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r))),
    abstained=st.integers(0, 100),
    mu=st.floats(0, 4),
    tau=st.sampled_from([0.3, 0.05, 0.001]),
)
def test_is_the_algorithm(guesses, abstained, mu, tau):
    r, v = guesses
    least = GaussianCurves().least_probability(mu)
    rejected = is_rejected(
        least, num_canaries=r + abstained, num_guesses=r, num_correct=v, significance=tau
    )
    assert rejected == is_rejected_with_arrays(least, r + abstained, r, v, tau)


@settings(max_examples=30, deadline=None)
@given(
    guesses=st.integers(2, 150).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r - 1))),
    confidence=st.sampled_from([0.8, 0.95, 0.99]),
)
def test_epsilon_grows_with_right_guesses_and_shrinks_with_confidence_and_delta(
    guesses, confidence
):
    r, v = guesses

    def epsilon(correct=v, **changed):
        options = {"delta": 1e-5, "confidence": confidence} | changed
        return one_run_fdp_epsilon(
            num_canaries=300, num_guesses=r, num_correct=correct, **options
        ).epsilon

    assert epsilon(v + 1) >= epsilon() >= epsilon(confidence=(1 + confidence) / 2)
    assert epsilon() >= epsilon(delta=1e-4)


def test_more_leakage_is_never_rejected_where_less_is_not():
    for r, v in ((100, 80), (300, 200), (50, 50)):
        rejected = [
            is_rejected(
                GaussianCurves().least_probability(mu),
                num_canaries=300,
                num_guesses=r,
                num_correct=v,
                significance=0.05,
            )
            for mu in np.linspace(0, 4, 200)
        ]
        assert rejected == sorted(rejected, reverse=True)
        assert 0 < sum(rejected) < 200


def test_delta_0_is_refused():
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1; got 0"):
        one_run_fdp_epsilon(num_canaries=99, num_guesses=9, num_correct=9, delta=0)


@pytest.mark.parametrize("significance", [0.0, 1.0])
def test_a_test_needs_a_significance(significance):
    with pytest.raises(ValueError, match="significance must lie strictly between 0 and 1"):
        is_rejected(
            GaussianCurves().least_probability(1.0),
            num_canaries=9,
            num_guesses=9,
            num_correct=9,
            significance=significance,
        )
