"""ε and δ against dp-accounting, an independent method, closed forms and themselves."""

from __future__ import annotations

import math

import dp_accounting
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from dp_accounting import pld
from dpjax_accounting.engine.composed_loss import ComposedLoss
from scipy import optimize, stats

from tests.support.mechanisms import dpsgd

# num_units, expected batch size, noise multiplier, steps, delta.
COMPARED = [
    (67349, 1024, 0.8, 200, 1e-5),
    (67349, 1024, 1.2, 1000, 1e-6),
    (67349, 256, 1.5, 5000, 1e-5),
    (60000, 600, 4.0, 10000, 1e-5),
    (1000000, 8192, 1.0, 2000, 1e-7),
    (1000000, 100, 2.0, 100000, 1e-8),
    (42061, 1024, 2.0, 411, 8e-6),
    (10000, 256, 1.5, 400, 1e-5),
    (10000, 5000, 8.0, 50, 1e-5),
    (1000, 100, 4.0, 300, 1e-4),
    (1000, 1, 3.0, 17, 1e-4),
    (50000, 50000, 20.0, 100, 1e-5),
    (50000, 50000, 2.0, 1, 1e-5),
    (50000, 500, 1.5, 1, 1e-5),
    (10000, 1000, 50.0, 1000, 1e-5),
    (10000, 10000, 200.0, 1000, 1e-5),
]
CHEAP = dpsgd(1000, 100, 4.0, 300)


@pytest.mark.parametrize("row", COMPARED)
def test_epsilon_is_hardly_below_dp_accountings_and_not_above(row):
    num_units, batch, noise, steps, delta = row
    event = dp_accounting.PoissonSampledDpEvent(
        batch / num_units, dp_accounting.GaussianDpEvent(noise)
    )
    one_step = batch / num_units * math.sqrt(math.expm1(1 / noise**2))
    interval = min(1e-4, 0.1 * one_step)
    accountant = pld.PLDAccountant(value_discretization_interval=interval).compose(event, steps)
    mechanism = dpsgd(num_units, batch, noise, steps)
    theirs, ours = accountant.get_epsilon(delta), mechanism.epsilon(delta)
    # Theirs is a bound too, on a grid that can be coarser.
    assert theirs * (1 - 2e-3) < ours < theirs * (1 + 1e-5)
    assert mechanism.delta(ours) == pytest.approx(delta, rel=1e-4)


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Balle and Wang 2018, theorem 8, with mu the sensitivity / standard deviation."""
    tail = stats.norm.logcdf(-epsilon / mu - mu / 2)
    return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + tail)


@pytest.mark.parametrize(
    ("noise", "steps", "delta"), [(1.0, 1, 1e-5), (2.0, 3, 1e-6), (30.0, 400, 1e-5), (9.0, 1, 0.01)]
)
def test_full_batches_agree_with_the_exact_gaussian_formula(noise, steps, delta):
    mu = math.sqrt(steps) / noise
    exact = optimize.brentq(lambda e: gaussian_delta(e, mu) - delta, 0, 50, xtol=1e-12)
    mechanism = dpsgd(1000, 1000, noise, steps)
    assert exact < mechanism.epsilon(delta) * (1 + 1e-11)
    assert mechanism.epsilon(delta) == pytest.approx(exact, rel=1e-6)
    assert mechanism.delta(exact) == pytest.approx(delta, rel=1e-6)


def test_delta_inverts_epsilon():
    for delta in (1e-3, 1e-5, 1e-8, 1e-15, 1e-22):
        assert CHEAP.delta(CHEAP.epsilon(delta)) == pytest.approx(delta, rel=1e-4)


def test_delta_at_zero_epsilon_and_far_away():
    assert 0 < CHEAP.delta(0) < 1
    assert 0.999 < dpsgd(10, 10, 1.0, 100).delta(0.0) <= 1
    # What is not followed further comes back as the smallest supported delta.
    assert CHEAP.delta(1000.0) == 1e-25


def test_epsilon_is_zero_where_delta_suffices():
    assert dpsgd(10**9, 1, 1000.0, 10).epsilon(1e-6) == 0.0


@hypothesis.settings(max_examples=8, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    probability=st.floats(0.005, 0.4),
    noise=st.floats(3.0, 20.0),
    steps=st.integers(1, 300),
    factor=st.floats(1.05, 2.0),
)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(probability, noise, steps, factor):
    def epsilon(probability=probability, noise=noise, steps=steps):
        return dpsgd(10**6, probability * 10**6, noise, steps).epsilon(1e-6)

    base = epsilon()
    assert math.isfinite(base)
    assert base >= 0
    assert epsilon(noise=noise * factor) <= base
    assert epsilon(steps=math.ceil(steps * factor)) >= base
    assert epsilon(probability=probability * factor) >= base


@pytest.mark.parametrize("noise", [1e6, 1e7, 1e300])
def test_extreme_noise_gives_a_number(noise):
    assert dpsgd(100, 100, noise, 10).epsilon(1e-5) == 0.0
    assert 0 < dpsgd(100, 100, noise, 10).epsilon(1e-9) < 1e-2 or noise > 1e6


def test_extreme_sampling_probability_gives_a_number():
    assert dpsgd(10, 1e-300, 1.0, 10).epsilon(1e-10) == 0.0


@pytest.mark.parametrize("delta", [0, 1, -1e-5, 1.5])
def test_delta_outside_its_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1"):
        CHEAP.epsilon(delta)


def test_other_values_that_are_no_delta_or_epsilon():
    with pytest.raises(ValueError, match="delta must be finite; got nan"):
        CHEAP.epsilon(float("nan"))
    with pytest.raises(TypeError, match="delta must be a number; got '1e-5'"):
        CHEAP.epsilon("1e-5")
    with pytest.raises(ValueError, match="epsilon must be at least 0; got -1"):
        CHEAP.delta(-1)
    with pytest.raises(ValueError, match="epsilon must be finite; got inf"):
        CHEAP.delta(math.inf)
    with pytest.raises(TypeError, match="epsilon must be a number"):
        CHEAP.delta(True)


def test_too_small_a_delta_is_refused():
    assert CHEAP.epsilon(1e-25) > CHEAP.epsilon(1e-24) > 0
    with pytest.raises(ValueError, match="smallest supported delta, which is 1e-25"):
        CHEAP.epsilon(9e-26)


def test_too_large_a_loss_is_refused():
    with pytest.raises(ValueError, match=r"below 0\.1 are not accounted for; got 0\.05"):
        dpsgd(1000, 10, 0.05, 10).epsilon(1e-5)
    with pytest.raises(ValueError, match=r"100000 steps .*can exceed 1000: no useful epsilon"):
        dpsgd(1000, 1000, 1.0, 100000).epsilon(1e-5)
    with pytest.raises(ValueError, match="can exceed 1000"):
        dpsgd(1000, 1000, 1.0, 100000).delta(1.0)
    with pytest.raises(ValueError, match="More than 10,000,000 steps are not accounted for"):
        dpsgd(1000, 10, 10.0, 10_000_001).epsilon(1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_no_number_is_an_error(monkeypatch, value):
    monkeypatch.setattr(ComposedLoss, "epsilon", lambda self, delta: value)
    monkeypatch.setattr(ComposedLoss, "delta", lambda self, epsilon: value)
    with pytest.raises(ArithmeticError, match=r"The epsilon came out as"):
        CHEAP.epsilon(1e-5)
    with pytest.raises(ArithmeticError, match=r"The delta came out as"):
        CHEAP.delta(1.0)


def test_results_are_python_floats():
    assert type(CHEAP.epsilon(np.float64(1e-5))) is float
    assert type(CHEAP.delta(np.float32(1.0))) is float
