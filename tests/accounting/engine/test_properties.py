"""What must hold for all parameters."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import pytest
from dpjax_accounting import Composition, DPSGDSchedule, compare

from tests.support.mechanisms import dpsgd, full_batch, segment

pytestmark = pytest.mark.slow

N = 10**6
few = hypothesis.settings(max_examples=5, deadline=None, derandomize=True, database=None)
probabilities = st.floats(1e-3, 0.5)
noises = st.floats(0.5, 10.0)
steps = st.integers(1, 500)
deltas = st.sampled_from([1e-3, 1e-6, 1e-10, 1e-16])


@few
@hypothesis.given(q=probabilities, noise=noises, count=steps, delta=deltas)
def test_epsilon_and_delta_are_inverse(q, noise, count, delta):
    mechanism = dpsgd(N, q * N, noise, count)
    epsilon = mechanism.epsilon(delta)
    hypothesis.assume(epsilon > 0)
    assert mechanism.delta(epsilon) == pytest.approx(delta, rel=1e-3)


@few
@hypothesis.given(q=probabilities, noise=noises, count=steps, delta=deltas)
def test_replacing_a_unit_costs_at_least_as_much_and_zeroing_it_the_same(q, noise, count, delta):
    by_relation = {
        relation: dpsgd(N, q * N, noise, count, neighboring=relation).epsilon(delta)
        for relation in ("add_or_remove_one", "zero_out", "replace_one")
    }
    assert by_relation["zero_out"] == by_relation["add_or_remove_one"]
    assert by_relation["replace_one"] >= by_relation["add_or_remove_one"] * (1 - 1e-4)


@few
@hypothesis.given(q=probabilities, noise=noises, count=st.integers(3, 500), delta=deltas)
def test_privacy_loss_distributions_are_not_looser_than_renyi(q, noise, count, delta):
    both = compare(dpsgd(N, q * N, noise, count), delta)
    assert both.pld <= both.rdp * (1 + 1e-6)


@few
@hypothesis.given(q=probabilities, noise=noises, count=st.integers(3, 500), delta=deltas)
def test_segments_are_the_whole(q, noise, count, delta):
    whole = dpsgd(N, q * N, noise, count)
    segments = (segment(q * N, noise, count // 3), segment(q * N, noise, count - count // 3))
    assert DPSGDSchedule(num_units=N, segments=segments).epsilon(delta) == whole.epsilon(delta)
    parts = Composition((whole.after(1), whole.after(count - 1)))
    assert parts.epsilon(delta) == whole.epsilon(delta)


@few
@hypothesis.given(noise=noises, count=steps, delta=deltas)
def test_full_batches_are_gaussian_and_replacing_doubles_the_sensitivity(noise, count, delta):
    # With the doubled sensitivity, a larger μ has losses that are refused.
    hypothesis.assume(2 * math.sqrt(count) / noise < 30)
    exact = full_batch(noise, count).epsilon(delta)
    assert dpsgd(N, N, noise, count).epsilon(delta) == exact
    assert full_batch(noise / math.sqrt(count), 1).epsilon(delta) == pytest.approx(exact, rel=1e-9)
    doubled = full_batch(noise, count, neighboring="replace_one").epsilon(delta)
    assert full_batch(noise / 2, count).epsilon(delta) == pytest.approx(doubled, rel=1e-9)


@pytest.mark.parametrize("delta", [1e-5, 1e-12])
def test_rare_sampling_tends_to_nothing_and_near_certain_sampling_to_the_gaussian(delta):
    assert dpsgd(10**9, 1, 1.0, 1).epsilon(delta) < 1e-5
    nearly = dpsgd(N, N - 1, 2.0, 10).epsilon(delta)
    assert nearly == pytest.approx(full_batch(2.0, 10).epsilon(delta), rel=1e-4)


def test_gaussian_releases_among_others_are_one_gaussian():
    mixed = Composition((dpsgd(N, 1000, 1.0, 100), full_batch(4.0, 1), full_batch(2.0, 3)))
    merged = Composition((dpsgd(N, 1000, 1.0, 100), full_batch((1 / 16 + 3 / 4) ** -0.5, 1)))
    assert mixed.epsilon(1e-6) == pytest.approx(merged.epsilon(1e-6), rel=1e-9)
    assert mixed.epsilon(1e-6) > full_batch((1 / 16 + 3 / 4) ** -0.5, 1).epsilon(1e-6)


@pytest.mark.parametrize("noise", [0.05, 0.1, 100.0])
@pytest.mark.parametrize("q", [1e-7, 0.01, 1.0])
@pytest.mark.parametrize("count", [1, 10**6])
def test_extremes_are_answered_or_refused_in_words(noise, q, count):
    mechanism = dpsgd(10**7, q * 10**7, noise, count)
    for delta in (1e-5, 1e-15):
        try:
            epsilon = mechanism.epsilon(delta)
        except ValueError as error:
            assert "Raise the noise multiplier" in str(error)
        else:
            assert 0 <= epsilon <= 1000


def test_one_unit():
    assert dpsgd(1, 1, 5.0, 10).epsilon(1e-5) == full_batch(5.0, 10).epsilon(1e-5)
