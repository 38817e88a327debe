"""The bound of one run against known values, a naive formula and its own monotonicity."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dpjax.audit import one_run_epsilon
from dpjax.audit.bounds.one_run import (
    largest_possible_epsilon,
    one_run_p_value,
    smallest_not_rejected,
)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "alpha", "expected"),
    [
        (100, 100, 100, 0, 0.05, 3.492965),
        (1000, 1000, 600, 0, 0.05, 0.297468),
        (1000, 1000, 600, 1e-5, 0.05, 0.297227),
        (1000, 100, 90, 0, 0.05, 1.630823),
        (1000, 100, 90, 1e-5, 0.05, 1.626143),
        (1000, 100, 90, 1e-3, 0.05, 0.388474),
        (1000, 100, 90, 1e-5, 0.01, 1.427312),
        (1000, 100, 99, 1e-5, 0.05, 3.002832),
        (1000, 100, 100, 1e-5, 0.05, 3.465376),
        (5000, 500, 450, 1e-5, 0.05, 1.941420),
        (10000, 1000, 741, 1e-5, 0.05, 0.927637),
        (100000, 10000, 9033, 1e-5, 0.05, 2.171197),
        (1000, 250, 246, 1e-5, 0.05, 3.272886),
        (50, 50, 50, 1e-5, 0.05, 2.783309),
        (20, 10, 10, 1e-5, 0.05, 1.051147),
        (500, 100, 55, 1e-5, 0.05, 0.0),
        (1000, 100, 0, 1e-5, 0.05, 0.0),
        (3, 3, 3, 0, 0.05, 0.0),
    ],
)
def test_epsilon_of_known_guesses(m, r, v, delta, alpha, expected):
    bound = one_run_epsilon(
        num_canaries=m, num_guesses=r, num_correct=v, delta=delta, confidence=1 - alpha
    )
    assert bound.epsilon == pytest.approx(expected, abs=1e-6)
    assert (bound.validity, bound.delta) == ("certified", delta)
    assert bound.numbers == {"num_canaries": m, "num_guesses": r, "num_correct": v}


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "expected"),
    [
        (1000, 100, 90, 0, 2.735813e-05),
        (1000, 100, 90, 1e-5, 8.412886e-04),
        (1000, 100, 90, 1e-3, 8.142040e-02),
        (100, 100, 100, 0, 2.484379e-14),
    ],
)
def test_p_value_of_known_guesses_at_epsilon_1(m, r, v, delta, expected):
    p = one_run_p_value(num_canaries=m, num_guesses=r, num_correct=v, epsilon=1.0, delta=delta)
    assert p == pytest.approx(expected, rel=1e-6)


def naive_p_value(m, r, v, epsilon, delta):
    """Theorem 5.2 of Steinke, Nasr and Jagielski (2023), term by term."""
    q = 1 / (1 + math.exp(-epsilon))
    weights = [math.comb(r, w) * q**w * (1 - q) ** (r - w) for w in range(r + 1)]
    gains = [sum(weights[v - i : v]) / i for i in range(1, v + 1)]
    return min(1.0, sum(weights[v:]) + 2 * m * delta * max(gains, default=0.0))


@given(
    guesses=st.integers(1, 60).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r))),
    abstained=st.integers(0, 1000),
    epsilon=st.floats(0, 6),
    delta=st.sampled_from([0.0, 1e-8, 1e-5, 1e-3, 0.1]),
)
def test_p_value_is_the_theorems(guesses, abstained, epsilon, delta):
    r, v = guesses
    p = one_run_p_value(
        num_canaries=r + abstained, num_guesses=r, num_correct=v, epsilon=epsilon, delta=delta
    )
    assert p == pytest.approx(naive_p_value(r + abstained, r, v, epsilon, delta), abs=1e-12)


@settings(max_examples=50)
@given(
    guesses=st.integers(1, 300).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r - 1))),
    delta=st.sampled_from([0.0, 1e-6, 1e-5, 1e-3]),
    confidence=st.sampled_from([0.8, 0.95, 0.99]),
)
def test_epsilon_grows_with_right_guesses_and_shrinks_with_confidence_and_delta(
    guesses, delta, confidence
):
    r, v = guesses

    def epsilon(correct=v, **changed):
        options = {"delta": delta, "confidence": confidence} | changed
        return one_run_epsilon(
            num_canaries=500, num_guesses=r, num_correct=correct, **options
        ).epsilon

    assert epsilon(v + 1) >= epsilon() >= epsilon(confidence=(1 + confidence) / 2)
    assert epsilon() >= epsilon(delta=delta + 1e-4)


@given(
    guesses=st.integers(1, 200).flatmap(lambda r: st.tuples(st.just(r), st.integers(1, r))),
    delta=st.sampled_from([0.0, 1e-5, 1e-3, 1e-2]),
    low=st.floats(0, 5),
    step=st.floats(0, 1),
)
def test_p_value_below_a_half_rises_with_epsilon(guesses, delta, low, step):
    """The root between two points of the search's grid is thus the only one."""
    r, v = guesses
    counts = {"num_canaries": 1000, "num_guesses": r, "num_correct": v, "delta": delta}
    at_low = one_run_p_value(**counts, epsilon=low)
    at_high = one_run_p_value(**counts, epsilon=low + step)
    assert at_high >= min(at_low, 0.5) * (1 - 1e-12)


@pytest.mark.parametrize("num_guesses", [5, 20, 100, 5000])
def test_largest_possible_epsilon_is_that_of_no_error(num_guesses):
    bound = one_run_epsilon(
        num_canaries=num_guesses, num_guesses=num_guesses, num_correct=num_guesses, delta=0
    )
    largest = largest_possible_epsilon(num_guesses=num_guesses, confidence=0.95)
    assert largest == pytest.approx(bound.epsilon, abs=1e-9)


def test_four_right_guesses_show_nothing():
    assert largest_possible_epsilon(num_guesses=4, confidence=0.95) == 0.0


def test_the_search_ends_at_40():
    assert smallest_not_rejected(lambda epsilon: -1.0) == 40.0
    assert smallest_not_rejected(lambda epsilon: epsilon - 39.99) == pytest.approx(39.99)


def test_without_delta_the_bound_is_the_binomial_tails():
    bound = one_run_epsilon(num_canaries=50, num_guesses=40, num_correct=33, delta=0)
    assert stats.binom.sf(32, 40, special.expit(bound.epsilon)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_canaries": 0}, ValueError, "num_canaries must be at least 1; got 0"),
        ({"num_guesses": 101}, ValueError, "num_guesses must be between 1 and 100; got 101"),
        ({"num_guesses": 0}, ValueError, "num_guesses must be between 1 and 100; got 0"),
        ({"num_correct": 51}, ValueError, "num_correct must be between 0 and 50; got 51"),
        ({"num_correct": -1}, ValueError, "num_correct must be between 0 and 50; got -1"),
        ({"num_correct": 1.5}, TypeError, "num_correct must be a whole number; got 1.5"),
        ({"num_correct": math.nan}, TypeError, "num_correct must be a whole number; got nan"),
        ({"num_correct": math.inf}, TypeError, "num_correct must be a whole number; got inf"),
        ({"num_correct": "4"}, TypeError, "num_correct must be a whole number; got '4'"),
        ({"num_correct": True}, TypeError, "num_correct must be a whole number; got True"),
        ({"delta": 1.0}, ValueError, "delta must lie strictly between 0 and 1; got 1.0"),
        ({"delta": math.nan}, ValueError, "delta must lie strictly between 0 and 1; got nan"),
        ({"confidence": 1.0}, ValueError, "confidence must lie strictly between 0 and 1"),
    ],
)
def test_bad_numbers_are_refused(changed, error, message):
    options = {"num_canaries": 100, "num_guesses": 50, "num_correct": 40, "delta": 1e-5}
    with pytest.raises(error, match=message):
        one_run_epsilon(**options | changed)


@pytest.mark.parametrize("epsilon", [-0.1, math.nan])
def test_a_p_value_needs_an_epsilon(epsilon):
    with pytest.raises(ValueError, match="epsilon must be at least 0"):
        one_run_p_value(num_canaries=9, num_guesses=9, num_correct=9, epsilon=epsilon, delta=0)
