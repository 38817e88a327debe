"""One step: the discretised loss, closed forms, the proof of the worst case, exact sampling."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from dpjax_accounting.engine.one_step_grid import discretise
from dpjax_accounting.engine.releases import poisson
from scipy import stats

from tests.support.mechanisms import dpsgd, user_level


def delta_of(loss, interval: float, epsilon: float) -> float:
    losses = (loss.first + np.arange(len(loss.probabilities))) * interval
    above = losses > epsilon
    gaps = -np.expm1(epsilon - losses[above])
    return float(loss.probabilities[above] @ gaps) + loss.infinity


@pytest.mark.parametrize(("q", "noise"), [(0.015, 0.7), (0.3, 2.0), (0.9994, 0.8), (1e-4, 1.0)])
@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_discretised_loss_is_that_of_dp_accounting(q, noise, relation):
    # Connect-the-dots has one answer for a given grid; the two come to it by different formulas.
    interval = 1e-3
    theirs = privacy_loss_distribution.from_gaussian_mechanism(
        noise,
        sampling_prob=q,
        value_discretization_interval=interval,
        neighboring_relation=NeighboringRelation[relation.upper()],
    )
    release = poisson(q, noise, relation)
    for blend, pmf in ((release.removed, theirs._pmf_remove), (release.added, theirs._pmf_add)):
        ours = discretise(blend, interval, -(10**6), 10**6)
        for epsilon in (0.0, 0.0123, 0.2, 1.0, 3.0):
            expected = pmf.get_delta_for_epsilon(epsilon)
            assert delta_of(ours, interval, epsilon) == pytest.approx(expected, rel=1e-6, abs=1e-15)
        losses = (ours.first + np.arange(len(ours.probabilities))) * interval
        assert ours.probabilities.sum() + ours.infinity == pytest.approx(1, abs=1e-12)
        assert ours.probabilities @ np.exp(-losses) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("q", "noise"), [(0.01, 1.0), (0.3, 0.7), (0.5, 2.0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.4, 1.5])
def test_one_poisson_step_against_the_closed_form(q, noise, epsilon):
    def divergence(p, other):
        z = np.linspace(-12, 12 + 1 / noise, 200_001)
        gap = np.maximum(p(z) - math.exp(epsilon) * other(z), 0.0)
        return float(np.trapezoid(gap, z))

    def without(z):
        return stats.norm.pdf(z)

    def with_unit(z):
        return (1 - q) * without(z) + q * stats.norm.pdf(z - 1 / noise)

    exact = max(divergence(with_unit, without), divergence(without, with_unit))
    bound = dpsgd(1000, 1000 * q, noise, 1).delta(epsilon)
    assert bound == pytest.approx(exact, rel=1e-4, abs=1e-9)
    assert bound > exact - 1e-9


def test_one_poisson_step_by_monte_carlo():
    q, noise, epsilon = 0.2, 0.8, 0.5
    generator = np.random.default_rng(0)
    z = generator.standard_normal(400_000) + (generator.random(400_000) < q) / noise
    loss = np.log1p(q * np.expm1(z / noise - 0.5 / noise**2))
    gaps = np.maximum(-np.expm1(epsilon - loss), 0.0)
    error = gaps.std() / math.sqrt(len(gaps))
    assert abs(dpsgd(10, 10 * q, noise, 1).delta(epsilon) - gaps.mean()) < 4 * error


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    q=st.floats(0.01, 0.9),
    noise=st.floats(0.5, 3.0),
    norms=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    angle=st.floats(0, math.pi),
    epsilon=st.floats(-1, 2),
)
def test_opposite_contributions_are_the_worst_case_of_a_replacement(
    q, noise, norms, angle, epsilon
):
    axis = np.arange(-9, 9 + 1e-9, 0.06)
    x, y = np.meshgrid(axis, axis, indexing="ij")

    def density(length, direction):
        a, b = length / noise * math.cos(direction), length / noise * math.sin(direction)
        base = np.exp(-(x**2 + y**2) / 2)
        moved = np.exp(-((x - a) ** 2 + (y - b) ** 2) / 2)
        return ((1 - q) * base + q * moved) / (2 * math.pi)

    def divergence(p, other):
        return np.maximum(p - math.exp(epsilon) * other, 0.0).sum() * 0.06**2

    here = divergence(density(norms[0], 0.0), density(norms[1], angle))
    worst = divergence(density(1.0, 0.0), density(1.0, math.pi))
    assert here <= worst + 1e-6


def test_one_record_per_user_is_the_record():
    user = user_level(1000, 50, 1.0, 20, records_per_user=1)
    assert user.epsilon(1e-5) == pytest.approx(dpsgd(1000, 50, 1.0, 20).epsilon(1e-5), rel=1e-9)
