"""Verdicts on claims: violations, and how often a right claim is called one."""

import functools
import json

import numpy as np
import pytest
from dpjax_accounting import Composition, FullBatch
from scipy import stats

from dpjax.audit.bounds.guesses import count_correct
from dpjax.audit.verdicts.claim_test import Claim, ClaimTest
from dpjax.audit.verdicts.power import gaussian_mu
from dpjax.audit.verdicts.verdict import judge

MU = gaussian_mu(4.0, 1e-5)
MECHANISM = FullBatch(noise_multiplier=1 / MU, num_steps=1)
COINS = np.random.default_rng(0).random(1000) < 0.5
NOISE = np.random.default_rng(1).normal(size=1000)


def judged(leakage, **changed):
    options = {"claimed_epsilon": 4.0, "delta": 1e-5, "mechanism": MECHANISM} | changed
    return judge(NOISE + leakage * MU * COINS, COINS, **options)


def test_a_right_claim_is_consistent_and_half_the_noise_a_violation():
    right, half = judged(1.0), judged(2.0)
    assert right.conclusion == "consistent"
    assert right.certified.epsilon < right.model_based.epsilon < 4.0
    assert "do not contradict the claimed ε = 4" in right.sentence
    assert "no proof of privacy" in right.sentence
    assert half.conclusion == "violation"
    assert "refute the claimed ε = 4" in half.sentence
    # Its own curve refutes the claim where the certified bound cannot.
    assert half.certified.epsilon < 4.0 < half.model_based.epsilon


def test_a_leak_of_everything_is_a_violation_without_a_mechanism():
    verdict = judged(20.0, mechanism=None, claimed_epsilon=2.0)
    assert verdict.conclusion == "violation"
    assert verdict.certified.epsilon > 2.0
    assert "one run, Gaussian curve" in verdict.model_based.method


def test_few_canaries_are_too_weak_to_tell():
    verdict = judge(NOISE[:40], COINS[:40], claimed_epsilon=1.0, delta=1e-5)
    assert verdict.conclusion == "too weak to tell"
    assert "Use more canaries" in verdict.sentence
    assert verdict.power.detection_rate < 0.5


def test_three_canaries_are_too_weak_to_tell():
    verdict = judge([3.0, 1.0, 2.0], [True, False, True], claimed_epsilon=1.0, delta=1e-5)
    assert (verdict.conclusion, verdict.certified.epsilon) == ("too weak to tell", 0.0)


def test_without_a_claim_there_is_a_bound_and_no_verdict():
    verdict = judged(20.0, mechanism=None, claimed_epsilon=None)
    assert (verdict.conclusion, verdict.power) == ("no claim", None)
    assert verdict.certified.confidence == 0.95
    assert verdict.certified.epsilon > 4.0
    assert "No privacy is claimed" in verdict.sentence


def test_constant_scores_of_members_that_come_first_are_no_violation():
    verdict = judge(
        np.zeros(1000), np.sort(COINS)[::-1], claimed_epsilon=4.0, delta=1e-5, mechanism=MECHANISM
    )
    assert (verdict.conclusion, verdict.certified.epsilon) == ("consistent", 0.0)


@pytest.mark.parametrize("leakage", [1.0, 2.0])
def test_every_field_can_be_written(leakage):
    fields = json.loads(json.dumps(judged(leakage).to_dict(), allow_nan=False))
    assert fields["certified"]["validity"] == "certified"
    assert fields["model_based"]["validity"] == "model-based"
    assert fields["power"]["claimed_epsilon"] == 4.0
    assert (
        json.loads(json.dumps(judged(1, mechanism=None, claimed_epsilon=None).to_dict()))["power"]
        is None
    )


@functools.cache
def claim_test(has_mechanism, num_canaries=300):
    claim = Claim(
        num_canaries, epsilon=4.0, delta=1e-5, mechanism=MECHANISM if has_mechanism else None
    )
    return ClaimTest(claim, significance=0.05)


@pytest.mark.parametrize("has_mechanism", [True, False])
def test_a_right_claim_is_rarely_refuted(has_mechanism):
    """The worst that training with this ε, or this trade-off function, may do to each canary."""
    rng, test = np.random.default_rng(2), claim_test(has_mechanism)
    refuted = 0
    for _ in range(300):
        coins = rng.random(300) < 0.5
        if has_mechanism:
            scores = rng.normal(size=300) + MU * coins
        else:
            scores = (coins ^ (rng.random(300) < 1 / (1 + np.exp(4.0)))) + rng.random(300) / 2
        refuted += test.refutes(count_correct(scores, coins))
    assert refuted <= stats.binom.ppf(0.999, 300, 0.05)


def test_a_mechanism_halves_the_level_of_each_test():
    assert claim_test(True).confidence_of_each == 0.975
    assert claim_test(False).confidence_of_each == 0.95
    assert judged(1.0).certified.confidence == 0.975
    assert judged(1.0, mechanism=None).certified.confidence == 0.95
    assert judged(1.0).confidence == 0.95


def test_the_conclusion_agrees_with_the_bounds():
    for leakage in (1.0, 1.5, 2.0, 3.0, 8.0):
        verdict = judged(leakage)
        exceeds = max(verdict.certified.epsilon, verdict.model_based.epsilon) > 4.0
        assert (verdict.conclusion == "violation") == exceeds


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"claimed_epsilon": None}, ValueError, "without the epsilon that it is claimed to have"),
        ({"claimed_epsilon": -1.0}, ValueError, "epsilon must be at least 0"),
        ({"claimed_epsilon": np.nan}, ValueError, "epsilon must be at least 0"),
        ({"claimed_epsilon": np.inf}, ValueError, "epsilon must be at least 0"),
        ({"delta": 0.0}, ValueError, "delta must lie strictly between 0 and 1; got 0"),
        ({"confidence": 1.0}, ValueError, "confidence must lie strictly between 0 and 1"),
        (
            {"mechanism": Composition(mechanisms=(MECHANISM, MECHANISM))},
            ValueError,
            "Composition has no single noise_multiplier",
        ),
    ],
)
def test_bad_claims_are_refused(changed, error, message):
    with pytest.raises(error, match=message):
        judged(1.0, **changed)


@pytest.mark.parametrize(
    ("scores", "coins", "error", "message"),
    [
        (np.full(1000, np.nan), COINS, ValueError, "NaN for 1000 of 1000"),
        (NOISE[:-1], COINS, ValueError, "one truth value per score"),
        (NOISE, COINS.astype(int), TypeError, "included must hold truth values"),
        (NOISE, np.ones(1000, bool), ValueError, "not fair coins"),
    ],
)
def test_bad_scores_are_refused(scores, coins, error, message):
    with pytest.raises(error, match=message):
        judge(scores, coins, claimed_epsilon=1.0, delta=1e-5)


def test_a_claim_that_is_not_the_mechanisms_is_refused():
    included = np.arange(100) % 2 == 0
    mechanism = FullBatch(noise_multiplier=1.0, num_steps=1)
    with pytest.raises(ValueError, match=r"which is 4.377 at delta = 1e-05; got 2"):
        judge(included * 1.0, included, delta=1e-5, claimed_epsilon=2.0, mechanism=mechanism)


def test_a_claim_about_replaced_records_is_no_claim_about_coins():
    included = np.arange(100) % 2 == 0
    mechanism = FullBatch(noise_multiplier=1.0, num_steps=1, neighboring="replace_one")
    with pytest.raises(ValueError, match="neighboring is replace_one"):
        judge(
            included * 1.0,
            included,
            delta=1e-5,
            claimed_epsilon=mechanism.epsilon(1e-5),
            mechanism=mechanism,
        )
