"""The Poisson sampler: its rate, its independence, and the cut into microbatches."""

import numpy as np
import pytest
from dpjax_accounting import DPSGD
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpjax.privatize import PoissonSampler, RunKey, microbatches, noisy_mean
from tests.support.mechanisms import banded


def make_sampler(num_units=500, batch=25, seed=2):
    mechanism = DPSGD(
        num_units=num_units, expected_batch_size=batch, noise_multiplier=1.0, num_steps=100
    )
    return PoissonSampler.for_mechanism(mechanism, RunKey.from_seed(seed))


def test_every_unit_is_drawn_with_the_sampling_probability():
    sampler, steps = make_sampler(), 2000
    counts = np.zeros(500)
    sizes = []
    for step in range(steps):
        drawn = sampler.indices(step)
        counts[drawn] += 1
        sizes.append(len(drawn))
    # Counts are Binomial(steps, q) for every unit; the chi-square statistic has 500 degrees.
    q = 25 / 500
    chi2 = np.sum((counts - steps * q) ** 2 / (steps * q * (1 - q)))
    assert 1e-4 < stats.chi2.cdf(chi2, 500) < 1 - 1e-4
    # Sizes vary as a Poisson sample's must: fixed-size or shuffled batches have variance 0.
    assert np.mean(sizes) == pytest.approx(25, rel=0.02)
    assert np.var(sizes) == pytest.approx(500 * q * (1 - q), rel=0.12)


def test_units_are_drawn_independently():
    sampler = make_sampler(num_units=2, batch=1)
    joint = np.zeros((2, 2))
    for step in range(4000):
        drawn = set(sampler.indices(step).tolist())
        joint[int(0 in drawn), int(1 in drawn)] += 1
    assert stats.chi2_contingency(joint).pvalue > 1e-3


def test_draws_are_a_pure_function_of_key_and_step():
    first, second = make_sampler(seed=4), make_sampler(seed=4)
    np.testing.assert_array_equal(first.indices(3), second.indices(3))
    assert not np.array_equal(first.indices(3), first.indices(4))
    assert not np.array_equal(first.indices(3), make_sampler(seed=5).indices(3))


def test_q_one_takes_everything():
    np.testing.assert_array_equal(make_sampler(30, 30).indices(0), np.arange(30))


@given(st.integers(0, 40), st.integers(1, 17))
def test_microbatches_hold_each_index_once(num, size):
    indices = np.arange(100, 100 + num)
    pieces = list(microbatches(indices, size))
    assert len(pieces) == -(-num // size)
    assert all(rows.shape == mask.shape == (size,) for rows, mask in pieces)
    kept = [row for rows, mask in pieces for row in rows[mask]]
    assert kept == indices.tolist()
    assert all(np.isin(rows, indices).all() for rows, _ in pieces)


def test_another_mechanism_is_refused():
    other = banded(100, 10, 1.0, 4, bands=2, column_norm=1.0)
    with pytest.raises(TypeError, match=r"Poisson batches from all units.*BandedDPSGD"):
        PoissonSampler.for_mechanism(other, RunKey.from_seed(0))
    with pytest.raises(TypeError, match=r"independent noise.*BandedDPSGD"):
        noisy_mean({"w": np.zeros(1, np.float32)}, None, mechanism=other, clip_norm=1.0)


def test_who_is_absent_changes_no_other_draw():
    mechanism = DPSGD(num_units=100, expected_batch_size=30, noise_multiplier=1.0, num_steps=9)
    key = RunKey.from_seed(3)
    present = np.arange(120) % 3 > 0
    whole = PoissonSampler.for_mechanism(mechanism, key, np.ones(120, bool))
    partial = PoissonSampler.for_mechanism(mechanism, key, present)
    for step in range(9):
        drawn = whole.indices(step)
        assert np.array_equal(partial.indices(step), drawn[present[drawn]])
    assert whole.sampling_probability == mechanism.sampling_probability


@pytest.mark.parametrize(
    ("present", "error"), [(np.ones((2, 2), bool), ValueError), (np.ones(4), TypeError)]
)
def test_who_is_present_is_one_truth_value_each(present, error):
    mechanism = DPSGD(num_units=4, expected_batch_size=2, noise_multiplier=1.0, num_steps=1)
    with pytest.raises(error, match="present must"):
        PoissonSampler.for_mechanism(mechanism, RunKey.from_seed(1), present)
