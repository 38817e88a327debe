"""Families of trade-off functions: Gaussian ones, and those of the accountant's mechanisms."""

import functools

import numpy as np
import pytest
from dpjax_accounting import (
    DPSGD,
    SMALLEST_NOISE_MULTIPLIER,
    Composition,
    FullBatch,
    trade_off,
)
from scipy import special

from dpjax.audit import GaussianCurves, MechanismCurves, one_run_fdp_epsilon
from dpjax.audit.bounds.curves import smallest_accepted

SAMPLED = DPSGD(num_units=1000, expected_batch_size=100, noise_multiplier=1.0, num_steps=20)
SHARES = np.linspace(0.001, 0.999, 57)


@functools.cache
def sampled_curve(leakage):
    return MechanismCurves(SAMPLED).least_probability(leakage)


@pytest.mark.parametrize(
    ("mu", "delta", "expected"),
    [
        (0.5, 1e-5, 1.993091),
        (1, 1e-5, 4.377178),
        (2, 1e-5, 9.997256),
        (1, 1e-6, 4.886554),
        (0.1, 1e-5, 0.340669),
        (5, 1e-5, 33.103732),
        (0, 1e-5, 0.0),
    ],
)
def test_epsilon_of_a_gaussian_release(mu, delta, expected):
    assert GaussianCurves().epsilon(mu, delta) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("neighboring", ["add_or_remove_one", "zero_out", "replace_one"])
@pytest.mark.parametrize("leakage", [0.5, 1.0, 2.0])
def test_curves_without_sampling_are_gaussian(neighboring, leakage):
    mechanism = FullBatch(noise_multiplier=3.0, num_steps=9, neighboring=neighboring)
    mu = leakage * (2.0 if neighboring == "replace_one" else 1.0)
    curves = MechanismCurves(mechanism)
    for x in (0.0, 1e-9, 0.2, 0.9, 1.0):
        expected = GaussianCurves().least_probability(mu)(x)
        assert curves.least_probability(leakage)(x) == pytest.approx(expected, rel=1e-9)
    assert curves.epsilon(leakage, 1e-5) == pytest.approx(GaussianCurves().epsilon(mu, 1e-5))


@pytest.mark.parametrize(("r", "v"), [(100, 80), (1000, 600), (20, 20), (100, 50)])
def test_bounds_without_sampling_are_the_gaussian_ones(r, v):
    counts = {"num_canaries": 1000, "num_guesses": r, "num_correct": v, "delta": 1e-5}
    curves = MechanismCurves(FullBatch(noise_multiplier=5.0, num_steps=4))
    bound = one_run_fdp_epsilon(**counts, curves=curves)
    gaussian = one_run_fdp_epsilon(**counts)
    assert bound.epsilon == pytest.approx(gaussian.epsilon, abs=1e-6)
    assert bound.method == "one run, FullBatch curve"


def test_a_sampled_curve_is_the_accountants():
    """Of fewer points of the same profile, the accountant's is the lower one."""
    accountants = 1 - trade_off(SAMPLED, 1 - SHARES)
    ours = np.array([sampled_curve(1.0)(x) for x in SHARES])
    np.testing.assert_allclose(ours, accountants, atol=5e-3)
    assert (ours >= accountants - 1e-3).all()


def test_a_sampled_curve_is_never_above_a_simulated_attack():
    """One step with probability q of a Gaussian release, its likelihood ratio as the score."""
    mechanism = DPSGD(num_units=10, expected_batch_size=2, noise_multiplier=0.8, num_steps=1)
    curve = MechanismCurves(mechanism).least_probability(1.0)
    for threshold in np.linspace(-1, 3, 9):
        fpr = special.ndtr(-threshold / 0.8)
        tpr = 0.8 * fpr + 0.2 * special.ndtr((1 - threshold) / 0.8)
        assert curve(1 - fpr) <= 1 - tpr + 1e-12
        # With the record removed instead of added, errors change places.
        assert curve(tpr) <= fpr + 1e-12


def test_a_sampled_curve_is_a_trade_off_function_in_both_directions():
    ours = np.array([sampled_curve(1.0)(x) for x in SHARES])
    assert (np.diff(ours) >= 0).all()
    assert (np.diff(ours, 2) >= -1e-9).all()
    assert (ours <= SHARES).all()
    # f(f(x)) = x where f is symmetric, as that of adding or removing is.
    middle = ours[(ours > 1e-3) & (ours < 0.5)]
    back = [1 - sampled_curve(1.0)(1 - value) for value in middle]
    np.testing.assert_allclose(back, SHARES[(ours > 1e-3) & (ours < 0.5)], atol=1e-6)


def test_more_leakage_gives_lower_curves_and_more_epsilon():
    curves = MechanismCurves(SAMPLED)
    for x in (0.1, 0.5, 0.9):
        assert sampled_curve(2.0)(x) < sampled_curve(1.0)(x) < sampled_curve(0.5)(x)
    epsilons = [curves.epsilon(leakage, 1e-5) for leakage in (0.0, 0.5, 1.0, 2.0)]
    assert epsilons == sorted(epsilons) and epsilons[0] == 0
    assert epsilons[2] == SAMPLED.epsilon(1e-5)


@pytest.mark.parametrize(("r", "v"), [(100, 75), (20, 20)])
def test_the_mechanisms_own_curve_gives_at_least_what_a_gaussian_one_gives(r, v):
    """Its ε at a small δ is larger than that of the Gaussian that is as hard to reject."""
    counts = {"num_canaries": 1000, "num_guesses": r, "num_correct": v, "delta": 1e-5}
    own = one_run_fdp_epsilon(**counts, curves=MechanismCurves(SAMPLED)).epsilon
    assert own >= one_run_fdp_epsilon(**counts).epsilon


def test_the_search_ends_at_both_ends_of_a_family():
    curves = MechanismCurves(SAMPLED)
    assert smallest_accepted(GaussianCurves(), lambda curve: True) == 8.0
    assert smallest_accepted(GaussianCurves(), lambda curve: False) == 0.0
    most = curves.with_leakage(curves.most_leakage).noise_multiplier
    assert most == pytest.approx(SMALLEST_NOISE_MULTIPLIER)


@pytest.mark.parametrize("wanted", [0.003, 0.4, 1.0, 1.7, 7.9])
def test_the_search_stops_just_below_what_is_accepted(wanted):
    curves = GaussianCurves()

    def is_rejected(curve):
        return curve(0.5) > special.ndtr(-wanted)

    leakage = smallest_accepted(curves, is_rejected)
    assert wanted * (1 - 1e-8) <= leakage <= wanted


def test_a_mechanism_without_one_noise_multiplier_is_refused():
    with pytest.raises(ValueError, match="Composition has no single noise_multiplier"):
        MechanismCurves(Composition(mechanisms=(SAMPLED, SAMPLED)))
