"""ε and δ against dp-accounting, an independent method, closed forms and themselves."""

from __future__ import annotations

import math
import types

import dp_accounting
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from dp_accounting import pld
from dpjax_accounting import DPSGD
from dpjax_accounting.privacy_loss import PrivacyLoss, smallest_delta
from scipy import optimize, stats

# num_units, expected batch size, noise multiplier, steps, delta, epsilon. The last column comes
# from complex-contour inversion of the moment generating function of the privacy loss, the larger
# of the two directions (closed form for one step and for full batches): no grid and no FFT.
REFERENCE = [
    (60000, 600, 4.0, 10000, 1e-5, 0.9468668006286634),
    (60000, 256, 1.1, 14062, 1e-5, 2.3815969213231742),
    (67349, 1024, 1.0, 198, 1 / (2 * 67349), 1.4347969363301016),
    (67349, 2048, 1.0, 658, 1e-5, 5.00129697473519),
    (42061, 1024, 1.0, 411, 8e-6, 3.169161061712924),
    (1000000, 8192, 0.8, 2000, 1e-7, 4.591328707935135),
    (10000, 256, 1.5, 400, 1e-5, 1.6016772363425094),
    (1000, 100, 4.0, 300, 1e-4, 1.4965457491940493),
    (50000, 50000, 20.0, 100, 1e-5, 1.9930914044151196),
    (50000, 50000, 1.0, 1, 1e-5, 4.3771780956812245),
    (50000, 500, 1.0, 1, 1e-5, 0.19945044779591473),
    (10000, 1000, 50.0, 1000, 1e-5, 0.20703083308301418),
    (10000, 10000, 200.0, 1000, 1e-5, 0.5612849328807854),
    (1000000, 100, 0.6, 100000, 1e-8, 1.953563429218034),
    (67349, 1024, 0.6, 198, 1 / (2 * 67349), 6.065024024128239),
    (2, 1, 0.5, 1, 1e-6, 10.01355048161155),
]
EQUAL_TO_DP_ACCOUNTING = [
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
CHEAP = DPSGD(1000, 100, 4.0, 300)


@pytest.mark.parametrize("row", REFERENCE)
def test_epsilon_agrees_with_the_reference_from_above(row):
    *fields, delta, reference = row
    epsilon = DPSGD(*fields).epsilon(delta)
    assert epsilon == pytest.approx(reference, rel=3e-4)
    assert epsilon > reference * (1 - 1e-6)


@pytest.mark.parametrize("row", EQUAL_TO_DP_ACCOUNTING)
def test_epsilon_and_delta_equal_dp_accounting(row):
    num_units, batch, noise, steps, delta = row
    event = dp_accounting.PoissonSampledDpEvent(
        batch / num_units, dp_accounting.GaussianDpEvent(noise)
    )
    accountant = pld.PLDAccountant().compose(event, steps)
    mechanism = DPSGD(num_units, batch, noise, steps)
    epsilon = accountant.get_epsilon(delta)
    assert mechanism.epsilon(delta) == pytest.approx(epsilon, abs=1e-6)
    assert mechanism.delta(epsilon) == pytest.approx(accountant.get_delta(epsilon), rel=1e-6)


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
    mechanism = DPSGD(1000, 1000, noise, steps)
    assert mechanism.epsilon(delta) == pytest.approx(exact, rel=2e-5)
    assert mechanism.epsilon(delta) > exact - 1e-9
    assert mechanism.delta(exact) == pytest.approx(delta, rel=1e-3)


def test_delta_inverts_epsilon():
    for delta in (1e-3, 1e-5, 1e-8):
        assert CHEAP.delta(CHEAP.epsilon(delta)) == pytest.approx(delta, rel=1e-6)


def test_delta_at_zero_epsilon_and_far_away():
    assert 0 < CHEAP.delta(0) < 1
    assert 0.999 < DPSGD(10, 10, 1.0, 100).delta(0.0) <= 1
    # What double precision cannot tell from zero comes back as the smallest supported delta.
    assert CHEAP.delta(1000.0) == smallest_delta(300) == 300 * 1e-14


def test_epsilon_is_zero_where_delta_suffices():
    assert DPSGD(10**9, 1, 1000.0, 10).epsilon(1e-6) == 0.0


@hypothesis.settings(max_examples=8, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    probability=st.floats(0.005, 0.4),
    noise=st.floats(3.0, 20.0),
    steps=st.integers(1, 300),
    factor=st.floats(1.05, 2.0),
)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(probability, noise, steps, factor):
    def epsilon(probability=probability, noise=noise, steps=steps):
        return DPSGD(10**6, probability * 10**6, noise, steps).epsilon(1e-6)

    base = epsilon()
    assert math.isfinite(base)
    assert base >= 0
    assert epsilon(noise=noise * factor) <= base
    assert epsilon(steps=math.ceil(steps * factor)) >= base
    assert epsilon(probability=probability * factor) >= base


@pytest.mark.parametrize("noise", [1e6, 1e7, 1e300])
def test_extreme_noise_gives_a_number(noise):
    assert DPSGD(100, 100, noise, 10).epsilon(1e-5) == 0.0
    assert 0 < DPSGD(100, 100, noise, 10).epsilon(1e-9) < 1e-2


def test_extreme_sampling_probability_gives_a_number():
    assert DPSGD(10, 1e-300, 1.0, 10).epsilon(1e-10) == 0.0


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


def test_delta_near_round_off_is_refused():
    mechanism = DPSGD(1000, 100, 8.0, 1000)
    assert mechanism.epsilon(smallest_delta(1000)) > mechanism.epsilon(1e-10) > 0
    with pytest.raises(ValueError, match=r"too small for 1000 steps: .* smallest .* is 1e-11"):
        mechanism.epsilon(9e-12)
    with pytest.raises(ValueError, match="smallest supported delta is 1e-14"):
        mechanism.after(1).epsilon(1e-15)


def test_too_large_a_loss_is_refused():
    with pytest.raises(ValueError, match=r"below 0\.1 are not accounted for; got 0\.05"):
        DPSGD(1000, 10, 0.05, 10).epsilon(1e-5)
    with pytest.raises(ValueError, match=r"100000 steps .* can exceed 1000: no useful epsilon"):
        DPSGD(1000, 1000, 1.0, 100000).epsilon(1e-5)
    with pytest.raises(ValueError, match="can exceed 1000"):
        DPSGD(1000, 1000, 1.0, 100000).delta(1.0)
    with pytest.raises(ValueError, match="More than 1,000,000 steps are not accounted for"):
        DPSGD(1000, 10, 10.0, 1_000_001).epsilon(1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_no_number_is_an_error(monkeypatch, value):
    broken = types.SimpleNamespace(
        get_epsilon_for_delta=lambda delta: value, get_delta_for_epsilon=lambda epsilon: value
    )
    monkeypatch.setattr(PrivacyLoss, "_composed", lambda self, num_steps: broken)
    with pytest.raises(ArithmeticError, match=r"epsilon of 300 steps .* came out as"):
        CHEAP.epsilon(1e-5)
    with pytest.raises(ArithmeticError, match=r"delta of 300 steps .* came out as"):
        CHEAP.delta(1.0)


def test_results_are_python_floats():
    assert type(CHEAP.epsilon(np.float64(1e-5))) is float
    assert type(CHEAP.delta(np.float32(1.0))) is float
