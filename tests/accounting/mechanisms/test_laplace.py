"""Laplace noise on one number: ε and δ against integrals of densities, and what δ = 0 costs."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from dpjax_accounting import (
    Composition,
    EpsilonBySteps,
    NotSampled,
    calibrate_noise_of,
    claim,
    gaussian_dp,
    unamplified_epsilon,
)
from dpjax_accounting.engine.laplace import LaplacePair
from dpjax_accounting.readings.second_opinion import second_opinion
from scipy import integrate

from tests.support.mechanisms import check_bad_steps_are_refused, dpsgd, laplace


def densities(b, q):
    """With the unit, and without it."""

    def at(z, mean):
        return math.exp(-abs(z - mean) / b) / (2 * b)

    return lambda z: (1 - q) * at(z, 0) + q * at(z, 1), lambda z: at(z, 0)


def integral(f, b):
    far = 1 + 60 * b
    # The densities have kinks at 0 and 1, and the positive part one between them.
    parts = [(-far, 0.0), *itertools.pairwise(np.linspace(0, 1, 65)), (1.0, far)]
    return sum(integrate.quad(f, low, high, epsabs=1e-14, epsrel=1e-11)[0] for low, high in parts)


def hockey_sticks(epsilon, b, q):
    present, absent = densities(b, q)
    pairs = ((present, absent), (absent, present))
    return [
        integral(lambda z, p=p, o=o: max(0, p(z) - math.exp(epsilon) * o(z)), b) for p, o in pairs
    ]


@pytest.mark.parametrize(("b", "q"), [(1.0, 1.0), (0.7, 0.2), (3.0, 0.02)])
def test_one_step_is_the_hockey_stick_of_its_densities(b, q):
    run = laplace(1000, 1000 * q, b, 1)
    for share in (0.0, 0.3, 0.8):
        epsilon = share * run.largest_loss
        exact = max(hockey_sticks(epsilon, b, q))
        assert (1 - 1e-8) * exact <= run.delta(epsilon) <= (1 + 1e-4) * exact
    assert run.delta(run.largest_loss) == 0.0
    assert run.delta(0.99 * run.largest_loss) > 0


@pytest.mark.parametrize(("b", "q", "steps"), [(2.0, 0.05, 40), (0.4, 0.3, 10), (5.0, 1.0, 20)])
def test_runs_agree_with_dp_accounting(b, q, steps):
    run = laplace(1000, 1000 * q, b, steps)
    loss = privacy_loss_distribution.from_laplace_mechanism(
        b, sampling_prob=q, value_discretization_interval=2e-5
    ).self_compose(steps)
    for delta in (1e-3, 1e-6):
        assert run.epsilon(delta) == pytest.approx(loss.get_epsilon_for_delta(delta), rel=2e-4)
    assert second_opinion(run, 1e-6) == pytest.approx(run.epsilon(1e-6), rel=1e-3)
    # Rényi divergences know less.
    assert run.epsilon(1e-6) <= run.rdp_epsilon(1e-6) < 1.5 * run.epsilon(1e-6)


@pytest.mark.parametrize(("b", "q"), [(1.0, 1.0), (0.5, 0.1), (4.0, 0.01), (0.1, 0.02)])
def test_renyi_divergences_are_those_of_the_densities(b, q):
    present, absent = densities(b, q)
    orders = np.array([1.5, 2.0, 8.0, 30.0])
    got = laplace(1000, 1000 * q, b, 1).rdp(orders)
    for order, value in zip(orders, got, strict=True):
        moments = [
            integral(lambda z, p=p, o=o, a=order: o(z) * (p(z) / o(z)) ** a, b)
            for p, o in ((present, absent), (absent, present))
        ]
        assert value == pytest.approx(max(np.log(moments)) / (order - 1), rel=1e-7)
    if q == 1:
        # Mironov 2017, "Rényi Differential Privacy", table II.
        a = orders
        terms = a / (2 * a - 1) * np.exp((a - 1) / b) + (a - 1) / (2 * a - 1) * np.exp(-a / b)
        np.testing.assert_allclose(got, np.log(terms) / (a - 1), rtol=1e-9)


@pytest.mark.parametrize("is_present", [True, False])
def test_outputs_and_losses_correspond(is_present):
    pair = LaplacePair(0.3, 0.6, is_present)
    z = np.linspace(0.01, 0.99, 50) - (0.0 if is_present else 1.0)
    losses = pair.loss(z)
    assert (np.diff(losses) > 0).all()
    np.testing.assert_allclose(pair.inverse(losses), z, rtol=1e-12)
    ends = pair.loss(np.array([-math.inf, -5.0, 5.0, math.inf]))
    assert ends[0] == ends[1] < losses[0] and ends[2] == ends[3] > losses[-1]
    p, q = pair.masses(np.array([-math.inf, -0.5, 0.2, math.inf]))
    assert p.sum() == pytest.approx(1) and q.sum() == pytest.approx(1)


def test_without_delta_every_step_costs_its_largest_loss():
    assert laplace(100, 100, 2.0, 7).epsilon(0) == pytest.approx(3.5)
    amplified = laplace(100, 10, 2.0, 7)
    assert amplified.epsilon(0) == pytest.approx(7 * math.log(1 + 0.1 * math.expm1(0.5)))
    assert amplified.epsilon(0) == amplified.largest_loss > amplified.epsilon(1e-5)
    # Where the tails do not count, the grid does not either.
    assert laplace(100, 100, 10.0, 1).epsilon(1e-20) <= 0.1 * (1 + 1e-11)
    assert laplace(100, 10, 2.0, 0).epsilon(0) == 0.0


def test_the_noise_is_calibrated():
    run = calibrate_noise_of(laplace(1000, 50, 1.0, 100), 2.0, 1e-5)
    assert 1.998 <= run.epsilon(1e-5) <= 2.0
    with pytest.raises(ValueError, match="met by every noise multiplier"):
        calibrate_noise_of(laplace(1000, 1000, 1.0, 1), 20.0, 1e-5)


def test_it_composes_and_stops():
    run = laplace(1000, 50, 1.0, 100)
    both = Composition((run, dpsgd(1000, 50, 1.0, 100)))
    assert both.epsilon(1e-5) > max(run.epsilon(1e-5), dpsgd(1000, 50, 1.0, 100).epsilon(1e-5))
    assert run.after(40) == laplace(1000, 50, 1.0, 40)
    by_step = EpsilonBySteps(run, 1e-5)
    assert by_step.at(40) == pytest.approx(run.after(40).epsilon(1e-5), rel=5e-3)
    check_bad_steps_are_refused(run.after, num_steps=100)
    assert gaussian_dp(run, 1e-5).smallest_delta > 0
    with pytest.raises(NotSampled, match="Laplace noise"):
        unamplified_epsilon(run, 1e-5)
    assert claim(run, 1e-5)["guarantee"]["epsilon_unamplified"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"neighboring": "replace_one"}, "a bound is known for a unit that is present or not"),
        ({"unit": "user"}, "GroupOfRecords bounds it"),
        ({"sampling": "shuffle"}, "no bound for shuffled epochs"),
    ],
)
def test_what_is_not_proved_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        laplace(1000, 50, 1.0, 100, **changes)


def test_too_little_noise_is_refused():
    with pytest.raises(ValueError, match="one step can reach 100"):
        laplace(1000, 50, 0.01, 100).epsilon(1e-5)
