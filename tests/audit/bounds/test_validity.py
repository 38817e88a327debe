"""How often bounds exceed the truth, for channels whose ε is known.

`python -m benchmarks audit` prints the same of many more audits.
"""

import functools

import numpy as np
import pytest
from scipy import stats

from benchmarks.support.audit_channels import (
    gaussian_channel,
    null_channel,
    randomised_response,
    shared_event,
)
from dpjax.audit import DEFAULT_PLAN, GaussianCurves, GuessPlan, epsilon_from_scores
from dpjax.audit.bounds.from_scores import (
    epsilon_of_guesses,
    is_rejected_by_a_step,
    joint_p_value,
)
from dpjax.audit.bounds.guesses import count_correct
from dpjax.audit.bounds.independent_channels import independent_channels_epsilon
from dpjax.audit.verdicts.power import gaussian_mu

DELTA = 1e-5
EVERY = GuessPlan(((0.5, 0.5),))
GAUSSIAN = gaussian_channel(2.0, gaussian_mu(2.0, DELTA))


def audits(channel, num_canaries, repeats, plan=DEFAULT_PLAN):
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        coins = rng.random(num_canaries) < 0.5
        yield tuple(count_correct(channel.draw(rng, coins), coins, plan))


def most_of(repeats):
    """More of so many audits exceed the truth once in a thousand tests, if 5 % do."""
    return stats.binom.ppf(0.999, repeats, 0.05)


@functools.cache
def certified(guesses, num_canaries):
    return epsilon_of_guesses(guesses, num_canaries=num_canaries, delta=DELTA, confidence=0.95)


def exceeds(guesses, epsilon, num_canaries):
    # Otherwise the bound is at most ε: test_every_smaller_epsilon_is_rejected.
    p = joint_p_value(guesses, num_canaries=num_canaries, epsilon=epsilon, delta=DELTA)
    return p < 0.05 and certified(guesses, num_canaries) > epsilon


@pytest.mark.parametrize("num_canaries", [200, 1000])
@pytest.mark.parametrize(
    "channel",
    [null_channel(), randomised_response(1.0), GAUSSIAN, shared_event(0.06)],
    ids=lambda channel: channel.name,
)
def test_certified_bounds_rarely_exceed_the_truth(channel, num_canaries):
    found = [
        exceeds(guesses, channel.epsilon, num_canaries)
        for guesses in audits(channel, num_canaries, 120)
    ]
    assert sum(found) <= most_of(120)


def test_null_scores_show_something_as_often_as_they_may():
    """The correction for several steps wastes little of the 5 %."""
    found = [
        joint_p_value(guesses, num_canaries=200, epsilon=0, delta=DELTA) < 0.05
        for guesses in audits(null_channel(), 200, 800)
    ]
    assert 0.02 * 800 <= sum(found) <= most_of(800)


def test_a_maximum_over_thresholds_is_no_bound():
    """What the fixed plan is for: without a correction a third of null scores show something."""
    found = 0
    for guesses in audits(null_channel(), 200, 300):
        singles = [joint_p_value([g], num_canaries=200, epsilon=0, delta=0) for g in guesses]
        found += min(singles) < 0.05
    assert found > most_of(300)


@pytest.mark.parametrize("channel", [null_channel(), GAUSSIAN], ids=lambda channel: channel.name)
def test_bounds_of_gaussian_curves_rarely_exceed_a_gaussian_truth(channel):
    curve = GaussianCurves().least_probability(channel.mu)
    rejected = independent = 0
    for guesses, [step] in zip(
        audits(channel, 200, 300), audits(channel, 200, 300, EVERY), strict=True
    ):
        rejected += is_rejected_by_a_step(curve, guesses, num_canaries=200, significance=0.05)
        independent += independent_epsilon(step, 200) > GaussianCurves().epsilon(channel.mu, DELTA)
    assert max(rejected, independent) <= most_of(300)


@functools.cache
def independent_epsilon(step, num_canaries):
    return independent_channels_epsilon(
        num_canaries=num_canaries, **step._asdict(), delta=DELTA
    ).epsilon


class TestSharedEvent:
    """6 % of runs leak every coin a little: more runs than the 5 % in which a bound may fail."""

    leak = shared_event(1.0)
    modelled = GaussianCurves().epsilon(shared_event(0.06).mu, DELTA)

    def test_each_canary_is_as_safe_as_under_a_gaussian_release_of_epsilon_1(self):
        assert self.modelled == pytest.approx(1.0, abs=0.003)
        assert shared_event(0.06).mu == pytest.approx(0.268, abs=0.001)

    def test_independent_channels_fail_whenever_the_event_occurs(self):
        found = [independent_epsilon(step, 1000) for [step] in audits(self.leak, 1000, 50, EVERY)]
        assert min(found) > self.modelled
        assert np.median(found) > 2 * self.modelled

    def test_certified_and_curves_stay_below_the_truth(self):
        curve = GaussianCurves().least_probability(shared_event(0.06).mu)
        found = list(audits(self.leak, 1000, 50))
        for guesses in found:
            assert not is_rejected_by_a_step(curve, guesses, num_canaries=1000, significance=0.05)
        # Of these 6 % of runs.
        exceeding = sum(exceeds(guesses, self.leak.epsilon, 1000) for guesses in found)
        assert exceeding <= most_of(50)


def test_real_leaks_are_found():
    rng = np.random.default_rng(3)
    coins = rng.random(1000) < 0.5
    channel = gaussian_channel(8.0, gaussian_mu(8.0, DELTA))
    assert epsilon_from_scores(channel.draw(rng, coins), coins, delta=DELTA).epsilon > 2
