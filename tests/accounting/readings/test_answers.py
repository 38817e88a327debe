"""Trade-off function, profile, μ-GDP, zCDP and the Bayesian reading, against closed forms."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from dpjax_accounting import (
    BestOfRuns,
    Composition,
    GroupOfRecords,
    NotGaussian,
    ShuffledDPSGD,
    best_guess_accuracy,
    gaussian_dp,
    posterior_belief,
    profile,
    trade_off,
    zcdp_rho,
)
from scipy.special import ndtr, ndtri

from tests.support.mechanisms import dpsgd, fixed_size, full_batch

RATES = np.concatenate([[0.0], np.geomspace(1e-9, 0.1, 200), np.linspace(0.1, 1, 200)])
SAMPLED = dpsgd(1000, 100, 6.0, 40)
few = hypothesis.settings(max_examples=2, deadline=None, derandomize=True, database=None)


@pytest.fixture
def no_closed_form(monkeypatch):
    """Treat Gaussians as mechanisms of which only the profile is known."""
    for module in ("trade_off", "gaussian_bound", "belief"):
        place = f"dpjax_accounting.readings.{module}.gaussian_mu"
        monkeypatch.setattr(place, lambda mechanism: None)


@pytest.mark.parametrize("relation", ["add_or_remove_one", "zero_out", "replace_one"])
def test_without_sampling_all_answers_are_those_of_the_gaussian(relation):
    mechanism = full_batch(4.0, 9, neighboring=relation)
    mu = (2 if relation == "replace_one" else 1) * 3 / 4
    np.testing.assert_allclose(trade_off(mechanism, RATES), ndtr(ndtri(RATES) + mu), rtol=1e-12)
    bound = gaussian_dp(mechanism, 1e-5)
    assert bound.is_exact
    assert bound.mu == pytest.approx(mu, rel=1e-12)
    assert zcdp_rho(mechanism) == pytest.approx(mu**2 / 2, rel=1e-12)
    assert best_guess_accuracy(mechanism) == pytest.approx(ndtr(mu / 2), rel=1e-12)
    # P[loss > ε] = δ for the loss N(μ²/2, μ²).
    belief = posterior_belief(mechanism, 1e-5)
    epsilon = math.log(belief / (1 - belief))
    assert ndtr(mu / 2 - epsilon / mu) == pytest.approx(1e-5, rel=1e-6)


def test_gaussians_are_recognised_in_every_form():
    whole = dpsgd(100, 100, 4.0, 8)
    together = Composition((whole, full_batch(2.0, 1)))
    assert gaussian_dp(together, 1e-5).mu == pytest.approx(math.sqrt(8 / 16 + 1 / 4))
    assert gaussian_dp(ShuffledDPSGD(noise_multiplier=4.0, num_epochs=9), 1e-5).mu == pytest.approx(
        3 / 4
    )


@pytest.mark.parametrize("mu", [0.01, 0.5, 1.0, 4.0, 13.0])
def test_the_numerical_way_is_close_to_the_closed_forms_and_never_below(mu, no_closed_form):
    mechanism = full_batch(1 / mu, 1)
    gap = trade_off(mechanism, RATES) - ndtr(ndtri(RATES) + mu)
    assert gap.min() > -1e-12
    assert gap.max() < (0.002 if mu <= 1 else 0.01)
    for delta in (1e-5, 1e-12):
        bound = gaussian_dp(mechanism, delta)
        assert mu <= bound.mu <= 1.01 * mu
        assert bound.smallest_delta == pytest.approx(delta, rel=1e-6)
    exact = mu**2 / 2 + mu * ndtri(1 - 1e-5)
    assert 1 / (1 + math.exp(-exact)) <= posterior_belief(mechanism, 1e-5)


def test_trade_off_of_a_sampled_run_is_concave_symmetric_and_gives_back_the_profile():
    bound = trade_off(SAMPLED, RATES)
    assert np.all(np.diff(bound) >= 0)
    assert np.all(np.diff(np.diff(bound[201:])) <= 1e-12)
    assert bound[0] == pytest.approx(1e-12, rel=1e-6)
    assert bound[-1] == 1
    # Exchanging the data sets maps (FPR, TPR) to (1 − TPR, 1 − FPR).
    inside = (RATES > 1e-6) & (bound < 1 - 1e-6)
    np.testing.assert_allclose(trade_off(SAMPLED, 1 - bound[inside]), 1 - RATES[inside], atol=1e-9)
    # Between two points the profile is replaced by its chord, which matters most where it is small.
    for epsilon, slack in ((0.0, 1e-6), (0.1, 0.02), (0.3, 0.02), (0.5, 0.1)):
        rates = np.concatenate([np.geomspace(1e-9, 0.01, 4000), np.linspace(0.01, 1, 4000)])
        back = np.max(trade_off(SAMPLED, rates) - math.exp(epsilon) * rates)
        exact = SAMPLED.delta(epsilon)
        assert exact * (1 - 1e-3) <= back <= exact * (1 + slack)


@few
@hypothesis.given(q=st.floats(0.05, 0.3), noise=st.floats(6.0, 10.0), steps=st.integers(5, 50))
def test_the_gaussian_of_a_sampled_run_bounds_its_profile(q, noise, steps):
    mechanism = dpsgd(1000, 1000 * q, noise, steps)
    bound = gaussian_dp(mechanism, 1e-6)
    assert not bound.is_exact
    assert bound.largest_epsilon == mechanism.epsilon(1e-6)
    gaussian = full_batch(1 / bound.mu, 1)
    slightly_less = full_batch(1.01 / bound.mu, 1)
    epsilons = np.linspace(0, bound.largest_epsilon, 20)
    deltas = profile(mechanism, epsilons)
    assert np.all(deltas <= profile(gaussian, epsilons) * (1 + 1e-9))
    assert np.any(deltas > profile(slightly_less, epsilons))
    # Sampling that is known does not amplify.
    assert bound.mu < math.sqrt(steps) / noise


def test_profile_has_the_shape_of_what_is_asked_for():
    deltas = profile(full_batch(2.0, 1), [[0.0, 1.0], [2.0, 3.0]])
    assert deltas.shape == (2, 2)
    assert deltas[1, 0] == full_batch(2.0, 1).delta(2.0)
    assert profile(SAMPLED, 0.2) == SAMPLED.delta(0.2)
    with pytest.raises(ValueError, match="epsilon must be at least 0"):
        profile(SAMPLED, [-1.0])


def test_belief_of_one_sampled_step_holds_for_all_but_delta_of_the_outputs():
    q, sigma, delta = 0.5, 2.0, 1e-4
    belief = posterior_belief(dpsgd(100, 50, sigma, 1), delta)
    epsilon = math.log(belief / (1 - belief))
    # The outputs z at which log(1 − q + q exp((z − ½) / σ²)) exceeds ε.
    cut = 0.5 + sigma**2 * math.log((math.exp(epsilon) - 1 + q) / q)
    exceptional = (1 - q) * ndtr(-cut / sigma) + q * ndtr((1 - cut) / sigma)
    assert exceptional <= delta
    # The (ε, δ) of the mechanism itself does not say so: its ε is exceeded more often.
    cut = 0.5 + sigma**2 * math.log((math.exp(dpsgd(100, 50, sigma, 1).epsilon(delta)) - 1 + q) / q)
    assert (1 - q) * ndtr(-cut / sigma) + q * ndtr((1 - cut) / sigma) > delta


def test_best_guess_is_at_least_as_good_as_any_threshold():
    bound = trade_off(SAMPLED, RATES)
    assert (1 + np.max(bound - RATES)) / 2 == pytest.approx(best_guess_accuracy(SAMPLED), rel=1e-3)


@pytest.mark.parametrize("mechanism", [dpsgd(100, 10, 1.0, 0), full_batch(1.0, 0)])
def test_nothing_released_teaches_nothing(mechanism):
    np.testing.assert_array_equal(trade_off(mechanism, RATES), RATES)
    assert gaussian_dp(mechanism, 1e-5).mu == zcdp_rho(mechanism) == 0
    assert posterior_belief(mechanism, 1e-5) == best_guess_accuracy(mechanism) == 0.5


@pytest.mark.parametrize(
    "mechanism",
    [
        SAMPLED,
        fixed_size(100, 10, 8.0, 4, neighboring="replace_one"),
        BestOfRuns(full_batch(8.0, 1), mean_runs=3.0),
        GroupOfRecords(full_batch(8.0, 1), records_per_user=2),
    ],
)
def test_what_is_no_gaussian_is_not_presented_as_one(mechanism):
    with pytest.raises(NotGaussian, match="has no useful rho"):
        zcdp_rho(mechanism)
    assert 0.5 <= best_guess_accuracy(mechanism) <= 1
    assert 0.5 <= posterior_belief(mechanism, 1e-5) <= 1
    assert np.all(trade_off(mechanism, RATES) >= RATES * (1 - 1e-12))


def test_refusals(no_closed_form):
    with pytest.raises(ValueError, match="No mu bounds this profile"):
        gaussian_dp(full_batch(0.05, 1), 1e-5)
    with pytest.raises(ValueError, match="fpr must lie between 0 and 1"):
        trade_off(SAMPLED, [1.5])
    with pytest.raises(ValueError, match="delta must lie strictly between"):
        posterior_belief(SAMPLED, 0.0)
    with pytest.raises(TypeError, match="delta must be a number"):
        gaussian_dp(SAMPLED, "1e-5")
