"""One composition for many δ: against an inversion that has no grid, and one another."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
from dpjax_accounting import claim
from dpjax_accounting.engine.composed_loss import ComposedLoss
from dpjax_accounting.engine.privacy_loss import PrivacyLoss
from dpjax_accounting.engine.window import TIGHT, Window, sums_beyond
from scipy.special import ndtr

from tests.support.mechanisms import dpsgd

RUNS = {
    "few_steps": dpsgd(300, 16, 0.4588, 3),
    "usual": dpsgd(6920, 256, 1.0, 500),
    "many_steps": dpsgd(10**6, 1000, 0.8, 10**4),
    "little_loss": dpsgd(10**5, 1000, 50.0, 1000),
    "nearly_all": dpsgd(1000, 999, 1.0, 20),
    "replaced": dpsgd(5000, 100, 1.0, 100, neighboring="replace_one"),
}


def inverted(pair, steps, epsilon):
    """δ at ε by the inverse Laplace transform of the loss's moments (no grid of losses).

    E[max(0, 1 − e^{ε − L})] = 1/2πi ∫ e^{K(s) − sε} / (s (s + 1)) ds over Re s = θ > 0, for any θ;
    the best one makes K(θ) − θε least.
    """
    # Far enough for orders up to 60; the trapezoidal rule is exact to double precision.
    outputs = np.arange(-14.0, 20.0 + 60 * pair.distance, 0.04)
    log_p = np.logaddexp.reduce([np.log(w) - (outputs - m) ** 2 / 2 for w, m in pair.p])
    log_p += math.log(0.04) - math.log(2 * math.pi) / 2
    losses = pair.loss(outputs)

    def log_moments(order, imaginary):
        exponents = log_p + order * losses
        peak = exponents.max()
        weights = np.exp(exponents - peak)
        return steps * (peak + np.log(np.exp(1j * np.outer(imaginary, losses)) @ weights))

    orders = np.geomspace(0.02, 60.0, 120)
    values = [log_moments(order, np.zeros(1)).real[0] - order * epsilon for order in orders]
    order = orders[int(np.argmin(values))]
    deviations = []
    for tilt in (0.0, order):
        tilted = np.exp(log_p + tilt * losses - (log_p + tilt * losses).max())
        tilted /= tilted.sum()
        deviations.append(math.sqrt(steps * (tilted @ losses**2 - (tilted @ losses) ** 2)))
    imaginary = np.arange(0.0, 12 / min(deviations), min(0.05 / max(deviations), order / 4))
    s = order + 1j * imaginary
    integrand = (np.exp(log_moments(order, imaginary) - s * epsilon) / (s * (s + 1))).real
    return float(np.trapezoid(integrand, imaginary)) / math.pi


def integrated(q, shift, added, epsilon):
    """δ at ε of three steps, as E[δ of one step at ε less the loss of two], by quadrature."""
    grid = np.arange(-10.0, 14.0, 0.01)
    sign = -1 if added else 1

    def loss(z):
        return sign * np.log((1 - q) + q * np.exp(sign * shift * z - shift**2 / 2))

    def output(losses):
        inside = (np.exp(sign * losses) - (1 - q)) / q
        with np.errstate(divide="ignore", invalid="ignore"):
            found = sign * (np.log(inside) + shift**2 / 2) / shift
        return np.where(inside > 0, found, math.inf if added else -math.inf)

    def beyond(z, side):
        return (1 - q) * ndtr(-z) + q * ndtr(side * shift - z) if side else ndtr(-z)

    sides = (0, -1) if added else (1, 0)
    density = np.exp(-(grid**2) / 2)
    if not added:
        density = (1 - q) * density + q * np.exp(-((grid - shift) ** 2) / 2)
    density *= 0.01 / math.sqrt(2 * math.pi)
    total = 0.0
    for z, weight in zip(grid, density, strict=True):
        left = epsilon - loss(z) - loss(grid)
        start = output(left)
        one_step = beyond(start, sides[0]) - np.exp(left) * beyond(start, sides[1])
        total += weight * float(density @ np.maximum(0.0, one_step))
    return total


@functools.cache
def losses(name):
    return PrivacyLoss(RUNS[name].releases())._losses


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name != "few_steps"])
def test_every_delta_is_at_least_the_exact_one_and_hardly_more(name):
    ((release, steps),) = RUNS[name].releases()
    pairs = [release.removed, release.added][: len(losses(name))]
    for loss, ((_, pair),) in zip(losses(name), pairs, strict=True):
        last = loss.epsilon(1e-10)
        for epsilon in np.linspace(last / 8, last, 8):
            exact = inverted(pair, steps, epsilon)
            # 1e-9 is the error of the inversion; the grid makes δ a little larger.
            assert exact * (1 - 1e-9) < loss.delta(epsilon) < exact * (1 + 1e-2)


@pytest.mark.parametrize("added", [False, True])
def test_every_delta_of_few_steps_is_at_least_the_exact_one_and_hardly_more(added):
    loss = losses("few_steps")[added]
    for epsilon in np.linspace(0.0, loss.epsilon(1e-9), 5):
        exact, larger = (
            integrated(16 / 300, 1 / 0.4588, added, one) for one in (epsilon, epsilon - 2e-4)
        )
        # On the grid losses are larger by up to an interval each, 1e-4.
        assert exact * (1 - 1e-5) < loss.delta(epsilon) < larger * (1 + 1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_a_shared_composition_answers_as_one_of_its_own(name):
    for loss in losses(name):
        for exponent in (1.5, 3.0, 5.0, 6.0, 7.7, 10.0, 12.0, 21.0):
            log_delta = -exponent * math.log(10)
            own = loss._own_epsilon(log_delta)
            shared = loss.epsilon(math.exp(log_delta))
            assert shared == pytest.approx(own, rel=5e-5, abs=1e-12)
            if shared > 0:
                delta = loss.delta(shared)
                assert delta == pytest.approx(math.exp(log_delta), rel=5 * TIGHT)


def test_an_answer_does_not_depend_on_those_before():
    (release, steps) = RUNS["usual"].releases()[0]
    deltas = [10.0**-k for k in range(1, 16)]
    epsilons = np.linspace(0.0, 9.0, 20)

    def answers(backwards):
        loss = ComposedLoss(((release.removed, steps),))
        turn = -1 if backwards else 1
        by_epsilon = [loss.delta(epsilon) for epsilon in epsilons[::turn]][::turn]
        return [loss.epsilon(delta) for delta in deltas[::turn]][::turn], by_epsilon

    assert answers(backwards=False) == answers(backwards=True)


def test_a_report_takes_few_compositions(monkeypatch):
    composed = []
    compose = ComposedLoss._window

    def counted(self, *arguments):
        composed.append(arguments)
        return compose(self, *arguments)

    monkeypatch.setattr(ComposedLoss, "_window", counted)
    claim(dpsgd(300, 16, 0.4588, 3), 1e-4)
    # For both directions, one for each three decades down to 1e-12, and a few where δ ends.
    assert 8 <= len(composed) <= 14


def naive(losses, weights, epsilon):
    """δ in exact arithmetic, from weights that are probabilities."""
    terms = (
        Fraction(float(w)) * (1 - Fraction(math.exp(epsilon - loss)))
        for loss, w in zip(losses, weights, strict=True)
        if loss > epsilon
    )
    return float(sum(terms, Fraction(0)))


@pytest.mark.parametrize("order", [0.0, 3.0, 300.0, 5000.0])
@pytest.mark.parametrize("width", [3.0, 900.0])
def test_bounds_hold_far_from_the_centre_where_exponents_are_cut(order, width):
    losses = np.linspace(-width, width, 61)
    probabilities = np.exp(-9 * (losses / width) ** 2)
    probabilities /= probabilities.sum()
    # As composed: tilted, and untilted with the exponent cut at 600.
    exponents = np.log(probabilities) + order * losses
    log_total = float(np.logaddexp.reduce(exponents))
    tilted = np.exp(exponents - log_total)
    centre = float(tilted @ losses)
    untilting = np.exp(np.minimum(-order * (losses - centre), 600.0))
    scale = log_total - order * centre
    slack = 1e-15 * sums_beyond(untilting) + math.exp(min(-scale, 600.0)) * 1e-15
    window = Window(losses, tilted * untilting, slack, order, centre, scale, wrapped=0.0)
    part = window.part(0.0, math.log(1e-3))
    for epsilon in np.linspace(-0.98 * min(width, 600.0), 0.98 * min(width, 600.0), 60):
        exact = naive(losses, probabilities, epsilon)
        assert window.log_delta(epsilon) >= math.log(exact) - 1e-9
        if epsilon >= 0 and exact > 1e-3:
            assert part.log_delta(epsilon) == window.log_delta(epsilon)
    for exponent in range(1, 5):
        epsilon = window.epsilon(-exponent * math.log(10))
        if math.isfinite(epsilon):
            assert naive(losses, probabilities, epsilon) <= 10.0**-exponent * (1 + 1e-9)


@pytest.mark.parametrize("order", [0.0, 2.0])
def test_what_was_left_out_or_came_round_is_not_tight(order):
    losses = np.linspace(-3.0, 3.0, 61)
    weights = np.exp(-(losses**2))
    kept = {"order": order, "centre": 0.0, "scale": 0.0}
    clean = Window(losses, weights, np.zeros(61), **kept, wrapped=0.0)
    assert clean.is_tight(0.05) and clean.is_tight(2.0)
    for slack, wrapped in ((1.0, 0.0), (0.0, 1.0)):
        spoilt = Window(losses, weights, np.full(61, slack), **kept, wrapped=wrapped)
        assert not spoilt.is_tight(0.05)
    assert not clean.is_tight(-3.5) and not clean.is_tight(3.5)
