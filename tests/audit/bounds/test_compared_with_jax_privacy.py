"""Exact values of the tests of jax_privacy.auditing, where that library is right.

Held here: its p-value of one run, its bounds of one run for given counts (with its own correction
for its own number of thresholds, handed over as the confidence) and its Clopper-Pearson limit.

Not held, because they are not right:

- `attack_auroc` and `tpr_at_given_fpr` are of the convex hull of the ROC curve: 13/16 where 11 of
  16 pairs are ordered correctly, and TPR = FPR where every pair is ordered wrongly.
- `Bonferroni` divides the significance by the number of corners of that hull, which is chosen by
  the labels. On null scores its bound of one run is above 0 in 5 to 9 % of runs, not in 5.
- `max_accuracy` is a maximum over all thresholds without a correction, unless one is asked for.
- `epsilon_raw_counts` has no confidence: no bound follows.
- `epsilon_from_gdp` of release 2.0.0 is above 0 on nearly all null scores.
- `delta = 1` is accepted there, where no statement is made, and refused here.
"""

import itertools

import numpy as np
import pytest
from scipy import stats

from dpjax.audit import (
    AttackCounts,
    auc,
    clopper_pearson_epsilon,
    one_run_epsilon,
    one_run_fdp_epsilon,
    roc_curve,
)
from dpjax.audit.bounds.one_run import one_run_p_value


@pytest.mark.parametrize(
    ("bound", "canaries", "thresholds", "guesses", "correct", "delta", "expected"),
    [
        (one_run_epsilon, 20_000, 386, 3376, 2807, 1e-6, 1.13346),
        (one_run_epsilon, 20_000, 374, 4666, 4499, 1e-6, 2.311945),
        (one_run_epsilon, 20_000, 140, 8233, 8223, 1e-6, 4.395568),
        (one_run_epsilon, 2000, 76, 438, 354, 1e-5, 0.893843),
        (one_run_epsilon, 2000, 84, 574, 545, 1e-5, 1.825752),
        (one_run_fdp_epsilon, 20_000, 386, 406, 379, 1e-6, 2.164749),
        (one_run_fdp_epsilon, 20_000, 374, 938, 934, 1e-6, 4.7218075),
        (one_run_fdp_epsilon, 20_000, 140, 5436, 5436, 1e-6, 9.133752),
        (one_run_fdp_epsilon, 2000, 76, 163, 144, 1e-5, 1.493764),
        (one_run_fdp_epsilon, 2000, 84, 212, 210, 1e-5, 3.538422),
    ],
)
def test_bound_of_one_run_at_its_best_threshold(
    bound, canaries, thresholds, guesses, correct, delta, expected
):
    found = bound(
        num_canaries=canaries,
        num_guesses=guesses,
        num_correct=correct,
        delta=delta,
        confidence=1 - 0.05 / thresholds,
    )
    assert found.epsilon == pytest.approx(expected, rel=1e-6)


def test_counts_at_its_best_threshold():
    """Scores at evenly spaced quantiles of N(1, 1) and N(0, 1)."""
    quantiles = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    pooled = np.sort(np.concatenate([quantiles, quantiles + 1]))[::-1]
    threshold = (pooled[3375] + pooled[3376]) / 2
    assert (quantiles + 1 > threshold).sum() == 2807


@pytest.mark.parametrize(
    ("m", "r", "wrong"),
    [
        (m, r, wrong)
        for m, r, wrong in itertools.product((10, 100, 1000), (1, 10, 100), (0, 1, 10, 100))
        if wrong <= r <= m
    ],
)
def test_p_value_of_one_run(m, r, wrong):
    """Term by term, as its naive implementation."""
    v = r - wrong
    for epsilon, delta in itertools.product((0, 0.5, 1.0), (0, 1e-6, 1e-3, 1e-1)):
        q = 1 / (1 + np.exp(-epsilon))
        weights = stats.binom.pmf(np.arange(r + 1), r, q)
        gain = max((weights[v - i : v].sum() / i for i in range(1, v + 1)), default=0.0)
        expected = min(1.0, weights[v:].sum() + 2 * m * delta * gain)
        p = one_run_p_value(
            num_canaries=m, num_guesses=r, num_correct=v, epsilon=epsilon, delta=delta
        )
        assert p == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("threshold", [0, 0.5, 1.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("num_in", [100, 1000])
def test_clopper_pearson_at_a_given_threshold(num_in, ratio, threshold):
    def num_above(count, mean):
        quantiles = stats.norm.ppf((np.arange(count) + 0.5) / count) + mean
        return int((quantiles >= threshold).sum())

    num_out = int(num_in * ratio)
    hits, alarms = num_above(num_in, 1), num_above(num_out, 0)
    low = stats.binomtest(hits, num_in).proportion_ci(0.9).low
    high = stats.binomtest(alarms, num_out).proportion_ci(0.9).high
    counts = AttackCounts(
        true_positives=hits, num_positives=num_in, false_positives=alarms, num_negatives=num_out
    )
    bound = clopper_pearson_epsilon(counts, delta=0, confidence=0.9)
    # The second quotient is of the errors of the other kind, which it asks for by `one_sided`.
    expected = max(np.log(low / high), np.log((1 - high) / (1 - low)), 0)
    assert bound.epsilon == pytest.approx(expected, rel=1e-9)


def test_plain_roc_where_it_takes_the_hull():
    assert auc([0, 4, 6, 7], [1, 2, 3, 5]) == 11 / 16
    assert auc([1, 3], [0, 2]) == 3 / 4
    assert auc(np.zeros(30), np.ones(30)) == 0
    assert roc_curve([1, 3], [0, 2]).tpr_at_fpr(0.25) == 0.5
    assert roc_curve(np.zeros(30), np.ones(30)).tpr_at_fpr(0.5) == 0
    assert auc(np.ones(30), np.zeros(45)) == 1
