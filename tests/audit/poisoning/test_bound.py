"""What privacy allows poison to achieve: closed forms, and limits that hold."""

import dataclasses

import numpy as np
import pytest
from dpjax_accounting import (
    DPSGD,
    BestOfRuns,
    FullBatch,
    GroupOfRecords,
    UserLevelDPSGD,
    tpr_ceiling,
    trade_off,
)
from scipy import stats

from dpjax.audit import epsilon_success_bound, mean_upper_limit, mechanism_success_bound
from dpjax.audit.poisoning import bound

GAUSSIAN = FullBatch(noise_multiplier=20.0, num_steps=4)
SAMPLED = DPSGD(num_units=1000, expected_batch_size=20, noise_multiplier=2.0, num_steps=30)


@pytest.mark.parametrize("k", [1, 2, 5, 16])
@pytest.mark.parametrize("clean", [0.0, 0.02, 0.4, 1.0])
def test_k_records_move_a_gaussian_k_times_as_far(clean, k):
    mu = 2 / 20.0
    exact = stats.norm.cdf(stats.norm.ppf(clean) + k * mu)
    assert mechanism_success_bound(clean, GAUSSIAN, num_poisoned=k) == pytest.approx(exact)


@pytest.mark.parametrize("mechanism", [GAUSSIAN, SAMPLED])
def test_for_one_record_the_bounds_are_those_of_a_record(mechanism):
    for clean in (0.0, 0.01, 0.3, 0.9):
        point = {"epsilon": 1.5, "delta": 1e-4}
        assert epsilon_success_bound(clean, num_poisoned=1, **point) == tpr_ceiling(clean, **point)
        curve = float(trade_off(mechanism, clean))
        assert mechanism_success_bound(clean, mechanism, num_poisoned=1) <= curve


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 3.0])
@pytest.mark.parametrize("k", [2, 7])
def test_a_group_is_the_chain_of_its_records(epsilon, k):
    # Each record more: e^ε p + δ, and 1 − e^−ε (1 − p − δ).
    delta, clean = 1e-3, 0.05
    steep, lost = clean, 1 - clean
    for _ in range(k):
        steep = np.exp(epsilon) * steep + delta
    # The complement, from the poisoned side: lost ≤ e^{kε} lost_k + δ_k.
    group_delta = delta * sum(np.exp(j * epsilon) for j in range(k))
    flat = 1 - np.exp(-k * epsilon) * (lost - group_delta)
    found = epsilon_success_bound(clean, epsilon=epsilon, delta=delta, num_poisoned=k)
    assert found == pytest.approx(min(1.0, steep, flat))


def test_a_bound_of_one_record_would_be_far_too_low_for_many():
    of_one = mechanism_success_bound(0.02, SAMPLED, num_poisoned=1)
    assert mechanism_success_bound(0.02, SAMPLED, num_poisoned=8) > 2 * of_one


def test_the_profile_of_the_group_is_that_of_the_accountant():
    group = GroupOfRecords(SAMPLED, records_per_user=4)
    found = bound._by_profile(0.02, SAMPLED, 4)
    for epsilon in np.linspace(0.1, 4 * SAMPLED.epsilon(1e-12), 20):
        at_point = tpr_ceiling(0.02, epsilon=epsilon, delta=group.delta(epsilon))
        assert found <= at_point * (1 + 2e-3)


def test_records_that_are_drawn_by_themselves_are_counted_together():
    together = bound.records_together(SAMPLED, 4)
    assert together == UserLevelDPSGD(
        num_records=1000,
        expected_batch_size=20,
        noise_multiplier=2.0,
        num_steps=30,
        records_per_user=4,
    )
    found = mechanism_success_bound(0.02, SAMPLED, num_poisoned=4)
    assert found == float(trade_off(together, 0.02)) < bound._by_profile(0.02, SAMPLED, 4)
    assert bound.records_together(BestOfRuns(GAUSSIAN, mean_runs=5.0), 4) is None


@pytest.mark.parametrize(
    ("q", "sigma", "k", "clean"),
    [(0.1, 1.0, 1, 0.05), (0.1, 1.0, 4, 0.05), (0.05, 0.7, 8, 0.01), (0.5, 2.0, 3, 0.3)],
)
def test_a_sampled_step_does_what_the_bound_allows_and_no_more(q, sigma, k, clean):
    """The attack with the largest success: one coordinate, the likelihood ratio, all k equal."""
    drawn = np.arange(k + 1)
    shares = stats.binom.pmf(drawn, k, q)
    threshold = stats.norm.isf(clean, scale=sigma)
    success = float(shares @ stats.norm.sf(threshold, loc=drawn, scale=sigma))
    # And the poison that keeps an event from happening, of which the complement is one that does.
    failure = float(
        shares @ stats.norm.cdf(stats.norm.ppf(clean, scale=sigma), loc=-drawn, scale=sigma)
    )
    mechanism = DPSGD(
        num_units=1000, expected_batch_size=1000 * q, noise_multiplier=sigma, num_steps=1
    )
    allowed = mechanism_success_bound(clean, mechanism, num_poisoned=k)
    assert max(success, failure) <= allowed < success + 0.003


def test_bounds_grow_with_everything():
    cleans, counts = (0.0, 0.1, 0.5), (1, 2, 4, 64)
    found = [
        [mechanism_success_bound(clean, GAUSSIAN, num_poisoned=k) for k in counts]
        for clean in cleans
    ]
    assert np.all(np.diff(found, axis=0) >= 0) and np.all(np.diff(found, axis=1) >= 0)
    assert epsilon_success_bound(0.1, epsilon=500.0, delta=1e-5, num_poisoned=1000) == 1.0


@pytest.mark.parametrize(
    ("mechanism", "words"),
    [
        (dataclasses.replace(GAUSSIAN, neighboring="replace_one"), "added or removed.*replace_one"),
        (GroupOfRecords(GAUSSIAN, records_per_user=2), "added or removed, got user"),
    ],
)
def test_another_relation_is_refused(mechanism, words):
    with pytest.raises(ValueError, match=words):
        mechanism_success_bound(0.1, mechanism, num_poisoned=2)


def test_no_poison_has_no_bound():
    with pytest.raises(ValueError, match="num_poisoned must be at least 1, got 0"):
        epsilon_success_bound(0.1, epsilon=1.0, delta=0.0, num_poisoned=0)
    with pytest.raises(ValueError, match="num_poisoned must be at least 1, got 0"):
        mechanism_success_bound(0.1, GAUSSIAN, num_poisoned=0)


@pytest.mark.parametrize("mean", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("num", [3, 20])
def test_the_limit_of_a_mean_covers_it(mean, num):
    rng = np.random.default_rng(0)
    # The most varied values with this mean, for which the inequality is sharpest, and milder ones.
    for draw in (
        lambda: (rng.random(num) < mean).astype(float),
        lambda: rng.beta(2 * mean, 2 * (1 - mean), num),
    ):
        covered = np.mean([mean_upper_limit(draw(), confidence=0.9) >= mean for _ in range(600)])
        assert covered >= 0.9 - 3 * np.sqrt(0.9 * 0.1 / 600)


def test_the_limit_of_a_mean_solves_its_inequality():
    rates = [0.1, 0.3, 0.2, 0.1]
    limit, mean = mean_upper_limit(rates), np.mean(rates)
    divergence = mean * np.log(mean / limit) + (1 - mean) * np.log((1 - mean) / (1 - limit))
    assert 4 * divergence == pytest.approx(np.log(20)) and limit > mean
    assert mean_upper_limit([1.0, 1.0]) == 1.0
    assert mean_upper_limit([0.0]) == pytest.approx(0.95)
    with pytest.raises(ValueError, match=r"numbers? in \[0, 1\], got \[2.0\]"):
        mean_upper_limit([2.0])
