"""Intervals against naive formulas, known values and simulated coverage."""

import numpy as np
import pytest
from scipy import special, stats

from dpjax.audit import auc, auc_interval, binomial_interval, roc_curve, tpr_interval
from dpjax.audit.membership.intervals import num_above_threshold


def delong_deviation(members, nonmembers):
    """Standard deviation of the AUC by DeLong's structural components, pair by pair."""
    wins = np.array([[(x > y) + 0.5 * (x == y) for y in nonmembers] for x in members])
    by_member, by_nonmember = wins.mean(axis=1), wins.mean(axis=0)
    total = ((by_member - wins.mean()) ** 2).sum() / (len(members) - 1) / len(members)
    total += ((by_nonmember - wins.mean()) ** 2).sum() / (len(nonmembers) - 1) / len(nonmembers)
    return np.sqrt(total)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("decimals", [0, 6])
def test_auc_interval_is_delongs_on_the_logit_scale(confidence, decimals):
    rng = np.random.default_rng(0)
    members = rng.normal(0.7, 1, 60).round(decimals)
    nonmembers = rng.normal(0, 2, 45).round(decimals)
    area = auc(members, nonmembers)
    step = stats.norm.ppf((1 + confidence) / 2) * delong_deviation(members, nonmembers)
    expected = special.expit(special.logit(area) + np.array([-1, 1]) * step / (area * (1 - area)))
    measured = auc_interval(members, nonmembers, confidence=confidence)
    np.testing.assert_allclose(measured, expected, rtol=1e-10)


def test_auc_interval_agrees_with_the_bootstrap():
    rng = np.random.default_rng(1)
    members, nonmembers = rng.normal(1, 1, 300), rng.normal(0, 1, 200)
    resampled = [auc(rng.choice(members, 300), rng.choice(nonmembers, 200)) for _ in range(1500)]
    low, high = auc_interval(members, nonmembers)
    np.testing.assert_allclose(np.quantile(resampled, [0.025, 0.975]), [low, high], atol=0.006)


@pytest.mark.parametrize(
    ("members", "nonmembers", "expected"),
    [
        # Perfect samples: AUC^k ≥ α/2 for k = min(M, N) disjoint pairs.
        (np.arange(100, 150), np.arange(40), (0.025 ** (1 / 40), 1.0)),
        (np.arange(40), np.arange(100, 150), (0.0, 1 - 0.025 ** (1 / 40))),
        # Nothing but ties: P(tie)^k ≥ α.
        (np.ones(40), np.ones(50), (0.05 ** (1 / 40) / 2, 1 - 0.05 ** (1 / 40) / 2)),
        ([1.0], [0.0, 0.5, 2.0], (0.0, 1.0)),
        ([1.0, 2.0, 3.0], [0.0], (0.0, 1.0)),
    ],
)
def test_auc_interval_of_degenerate_samples_is_finite_and_wide(members, nonmembers, expected):
    assert auc_interval(members, nonmembers) == pytest.approx(expected, abs=1e-12)


def test_a_single_swap_does_not_look_surer_than_a_perfect_sample():
    perfect, _ = auc_interval(np.arange(10, 20), np.arange(10))
    swapped, _ = auc_interval([9, *range(11, 20)], [*range(9), 10])
    assert swapped <= perfect < 0.7


@pytest.mark.parametrize(("shift", "size"), [(0.0, 15), (0.7, 60), (2.0, 60), (3.5, 100)])
def test_auc_interval_covers(shift, size):
    rng = np.random.default_rng(2)
    truth = stats.norm.cdf(shift / np.sqrt(2))
    runs = 600
    covered = 0
    for _ in range(runs):
        low, high = auc_interval(rng.normal(shift, 1, size), rng.normal(0, 1, 2 * size))
        covered += low <= truth <= high
    # Three standard errors below 95 %: exact coverage is not promised in small samples.
    assert covered / runs >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize(("num_nonmembers", "level"), [(60, 0.1), (600, 0.01), (300, 0.5)])
@pytest.mark.parametrize("decimals", [0, 6])
def test_tpr_interval_is_the_sharpest_of_its_kind(num_nonmembers, level, decimals):
    rng = np.random.default_rng(4)
    members = rng.normal(1, 1, 80).round(decimals)
    nonmembers = rng.normal(0, 1, num_nonmembers).round(decimals)
    low, high = 0.0, 1.0
    for rank, threshold in enumerate(sorted(nonmembers, reverse=True), start=1):
        fpr = stats.beta(rank, num_nonmembers - rank + 1)
        if fpr.sf(level) <= 0.0125:
            caught = stats.binomtest(int((members > threshold).sum()), 80)
            low = max(low, caught.proportion_ci(0.975, "exact").low)
        if fpr.cdf(level) <= 0.0125:
            caught = stats.binomtest(int((members >= threshold).sum()), 80)
            high = min(high, caught.proportion_ci(0.975, "exact").high)
    assert 0 <= low < high < 1
    assert tpr_interval(members, nonmembers, fpr_level=level) == pytest.approx(
        (low, high), abs=1e-9
    )


@pytest.mark.parametrize(
    ("shift", "num_nonmembers"), [(0.0, 100), (1.5, 100), (1.5, 600), (3.0, 600)]
)
def test_tpr_interval_covers_members_and_threshold(shift, num_nonmembers):
    """Clopper-Pearson at the threshold chosen, which takes it as given, covers 35 to 80 % here."""
    truth = stats.norm.sf(stats.norm.isf(0.05) - shift)
    assert tpr_coverage(shift, num_nonmembers, level=0.05, truth=truth, decimals=12) >= 0.95


def test_tpr_interval_covers_with_ties():
    # Rounded scores above 1 have the FPR of 1.5, which is just within the level.
    level, truth = stats.norm.sf(1.5) + 0.001, stats.norm.sf(1.5 - 1.0)
    assert tpr_coverage(1.0, 600, level=level, truth=truth, decimals=0) >= 0.95


def tpr_coverage(shift, num_nonmembers, *, level, truth, decimals):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        members = rng.normal(shift, 1, 500).round(decimals)
        nonmembers = rng.normal(0, 1, num_nonmembers).round(decimals)
        low, high = tpr_interval(members, nonmembers, fpr_level=level)
        covered += low <= truth <= high
    return covered / 300


@pytest.mark.parametrize("num_nonmembers", [1, 3, 40, 99, 100, 101, 500, 1000])
@pytest.mark.parametrize("level", [0.003, 0.01, 0.29, 0.5, 0.97])
def test_tpr_interval_holds_the_measured_rate(num_nonmembers, level):
    rng = np.random.default_rng(num_nonmembers)
    members, nonmembers = rng.normal(1, 1, 50).round(1), rng.normal(0, 1, num_nonmembers).round(1)
    low, high = tpr_interval(members, nonmembers, fpr_level=level)
    measured = roc_curve(members, nonmembers).tpr_at_fpr(level)
    assert 0 <= low <= measured <= high <= 1
    assert num_above_threshold(num_nonmembers, level) == max(
        k for k in range(num_nonmembers + 1) if k / num_nonmembers <= level
    )


@pytest.mark.parametrize(("num_nonmembers", "known"), [(435, False), (437, True)])
def test_too_few_nonmembers_leave_the_lower_end_at_zero(num_nonmembers, known):
    low, high = tpr_interval(np.ones(100), np.zeros(num_nonmembers), fpr_level=0.01)
    assert (low > 0.9) == known and high == 1.0


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        # R's binom.test.
        (0, 10, (0.0, 0.3084971)),
        (3, 10, (0.06673951, 0.6524529)),
        (10, 10, (0.6915029, 1.0)),
        (500, 500, (0.025 ** (1 / 500), 1.0)),
    ],
)
def test_binomial_interval_of_known_cases(successes, trials, expected):
    assert binomial_interval(successes=successes, trials=trials) == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (3, 7), (7, 7), (12, 900)])
def test_binomial_interval_equals_scipys(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(0.9, method="exact")
    measured = binomial_interval(successes=successes, trials=trials, confidence=0.9)
    assert measured == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="confidence must lie strictly between 0 and 1; got 95"):
        auc_interval([1, 2], [0, 1], confidence=95)
    with pytest.raises(ValueError, match="fpr_level must lie strictly between 0 and 1; got 0"):
        tpr_interval([1, 2], [0, 1], fpr_level=0)
    with pytest.raises(ValueError, match="got 3 of 2"):
        binomial_interval(successes=3, trials=2)
    with pytest.raises(ValueError, match="nonmember_scores is empty"):
        tpr_interval([1, 2], [], fpr_level=0.1)
