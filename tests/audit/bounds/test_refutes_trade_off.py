"""A claimed trade-off function is refuted by rates above it, and seldom by rates on it."""

import numpy as np
import pytest
from dpjax_accounting import DPSGD, FullBatch, trade_off
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from dpjax.audit import AttackCounts, clopper_pearson_epsilon, refutes_trade_off

GAUSSIAN = FullBatch(noise_multiplier=1.0, num_steps=1)
SAMPLED = DPSGD(num_units=4, expected_batch_size=1, noise_multiplier=1.0, num_steps=2)


def refutes(hits, alarms, *, mechanism=GAUSSIAN, runs=1000, **options):
    pairs = zip(np.atleast_1d(hits).tolist(), np.atleast_1d(alarms).tolist(), strict=True)
    return refutes_trade_off(mechanism, [counted(*pair, runs) for pair in pairs], **options)


def counted(hits, alarms, runs):
    return AttackCounts(
        true_positives=hits, num_positives=runs, false_positives=alarms, num_negatives=runs
    )


def test_the_limits_are_those_of_clopper_and_pearson():
    # One-sided, at 2.5 % each: the least number of hits whose lower limit is above F.
    high = stats.beta.isf(0.025, 101, 900)
    ceiling = special.ndtr(special.ndtri(high) + 1)
    low = stats.beta.ppf(0.025, np.arange(1, 1001), 1000 - np.arange(1, 1001) + 1)
    least = int(np.argmax(low > ceiling)) + 1
    assert (refutes(least - 1, 100), refutes(least, 100)) == (False, True)


@pytest.mark.parametrize("mechanism", [GAUSSIAN, SAMPLED])
def test_a_right_claim_is_seldom_refuted(mechanism):
    rng = np.random.default_rng(0)
    fpr = np.array([0.01, 0.1, 0.5])
    tpr = trade_off(mechanism, fpr)
    refuted = [
        refutes(rng.binomial(1000, tpr), rng.binomial(1000, fpr), mechanism=mechanism)
        for _ in range(400)
    ]
    assert np.mean(refuted) <= 0.05


def test_thresholds_share_the_level():
    # What just refutes it alone does not beside nine thresholds that show nothing.
    alone = next(hits for hits in range(201) if refutes(hits, 10, runs=200))
    assert not refutes([alone] + 9 * [0], [10] + 9 * [200], runs=200)
    assert refutes([200] + 9 * [0], [10] + 9 * [200], runs=200)


def test_it_sees_what_one_epsilon_does_not():
    """Half the noise: the certified bound stays below the claimed ε, the curve is left."""
    claim = FullBatch(noise_multiplier=2.0, num_steps=1)
    counts = counted(309, 67, 1000)
    bound = clopper_pearson_epsilon(counts, delta=1e-5)
    assert bound.epsilon < claim.epsilon(1e-5)
    assert refutes_trade_off(claim, [counts])


@given(hits=st.integers(0, 50), alarms=st.integers(0, 50))
def test_more_hits_and_fewer_alarms_refute_more(hits, alarms):
    if refutes(hits, alarms, runs=50):
        assert refutes(min(50, hits + 1), alarms, runs=50)
        assert refutes(hits, max(0, alarms - 1), runs=50)


def test_nothing_is_refuted_by_runs_all_called_the_same():
    assert not refutes(1000, 1000)
    assert not refutes(0, 0)


def test_no_threshold_and_no_confidence_are_refused():
    with pytest.raises(ValueError, match="counts must hold the counts of at least one threshold"):
        refutes_trade_off(GAUSSIAN, [])
    with pytest.raises(ValueError, match="confidence must lie strictly between 0 and 1"):
        refutes(1, 1, confidence=1.0)
