"""The plain empirical ROC against pair counting and loops over thresholds."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpjax.audit import auc, roc_curve

# Few distinct values, so that ties within and between the two sides are common.
scores = st.lists(st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 1.0, 7.0]), min_size=1, max_size=12)


def auc_by_pairs(members, nonmembers):
    return np.mean([(x > y) + 0.5 * (x == y) for x in members for y in nonmembers])


@pytest.mark.parametrize(
    ("members", "nonmembers", "expected"),
    [
        ([0, 4, 6, 7], [1, 2, 3, 5], 0.6875),
        ([1, 3], [0, 2], 0.75),
        ([2, 3], [0, 1], 1.0),
        ([0, 1], [2, 3], 0.0),
        ([5, 5, 5], [5, 5], 0.5),
    ],
)
def test_auc_of_known_cases(members, nonmembers, expected):
    assert auc(members, nonmembers) == expected


@settings(deadline=None)
@given(scores, scores)
@example([0.0], [0.0])
def test_auc_is_the_share_of_pairs_and_the_area_under_the_curve(members, nonmembers):
    curve = roc_curve(members, nonmembers)
    expected = pytest.approx(auc_by_pairs(members, nonmembers), abs=1e-12)
    assert auc(members, nonmembers) == expected
    assert np.trapezoid(curve.tpr, curve.fpr) == expected


@settings(deadline=None)
@given(scores, scores)
def test_curve_is_that_of_every_threshold(members, nonmembers):
    curve = roc_curve(members, nonmembers)
    members, nonmembers = np.array(members), np.array(nonmembers)
    distinct = sorted({*members, *nonmembers}, reverse=True)
    assert curve.thresholds.tolist() == [np.inf, *distinct]
    assert curve.tpr.tolist() == [0.0] + [np.mean(members >= t) for t in distinct]
    assert curve.fpr.tolist() == [0.0] + [np.mean(nonmembers >= t) for t in distinct]


@settings(deadline=None)
@given(scores, scores, st.sampled_from([0.0, 0.1, 0.25, 0.29, 0.5, 1.0]))
def test_tpr_at_fpr_is_the_best_threshold_within_the_level(members, nonmembers, level):
    members, nonmembers = np.array(members), np.array(nonmembers)
    allowed = [0.0]
    for threshold in {*members, *nonmembers}:
        if np.mean(nonmembers >= threshold) <= level:
            allowed.append(np.mean(members >= threshold))
    assert roc_curve(members, nonmembers).tpr_at_fpr(level) == max(allowed)


def test_a_level_that_is_met_exactly_counts():
    nonmembers = np.arange(300)
    members = np.full(10, 297)
    assert roc_curve(members, nonmembers).tpr_at_fpr(3 / 300) == 1.0
    assert roc_curve(members, nonmembers).tpr_at_fpr(0.01) == 1.0
    assert roc_curve(members, nonmembers).tpr_at_fpr(0.0099) == 0.0


@pytest.mark.parametrize("transform", [np.exp, np.arctan, lambda x: 3 * x - 7, lambda x: x**3])
def test_monotone_transforms_change_nothing(transform):
    rng = np.random.default_rng(0)
    members, nonmembers = rng.normal(0.5, 1, 40), rng.normal(0, 1, 30)
    plain = roc_curve(members, nonmembers)
    moved = roc_curve(transform(members), transform(nonmembers))
    np.testing.assert_array_equal(plain.tpr, moved.tpr)
    np.testing.assert_array_equal(plain.fpr, moved.fpr)
    assert auc(members, nonmembers) == auc(transform(members), transform(nonmembers))


def test_null_scores_are_not_flattered():
    """The area under the convex hull would average about 0.58 here."""
    rng = np.random.default_rng(1)
    draws = [(rng.normal(size=50), rng.normal(size=50)) for _ in range(800)]
    areas = [auc(*draw) for draw in draws]
    assert np.mean(areas) == pytest.approx(0.5, abs=4 * np.std(areas) / np.sqrt(800))
    rates = [roc_curve(*draw).tpr_at_fpr(0.04) for draw in draws]
    # Beyond the third largest of 50 non-members lies a share of 3 / 51 on average.
    assert np.mean(rates) == pytest.approx(3 / 51, abs=4 * np.std(rates) / np.sqrt(800))


def test_thinning_keeps_the_shape():
    rng = np.random.default_rng(2)
    curve = roc_curve(rng.normal(1, 1, 3000), rng.normal(0, 1, 3000))
    thin = curve.thinned(200)
    assert len(thin.fpr) <= 200 < len(curve.fpr)
    assert (thin.fpr[0], thin.tpr[0], thin.fpr[-1], thin.tpr[-1]) == (0, 0, 1, 1)
    grid = np.geomspace(1e-3, 1, 500)
    kept, full = (np.interp(grid, c.fpr, c.tpr) for c in (thin, curve))
    np.testing.assert_allclose(kept, full, atol=0.02)


def test_thinning_a_short_curve_only_drops_points_on_straight_stretches():
    curve = roc_curve([5, 6, 7], [1, 2, 3]).thinned()
    assert list(zip(curve.fpr, curve.tpr, strict=True)) == [(0, 0), (0, 1), (1, 1)]
    slanted = roc_curve([1, 1, 2], [1, 2, 2])
    np.testing.assert_array_equal(slanted.thinned().tpr, slanted.tpr)


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([], ValueError, "member_scores is empty"),
        ([1.0, np.nan], ValueError, "NaN for 1 of 2 records"),
        ([[1.0, 2.0]], ValueError, r"shape \(1, 2\)"),
        (["high"], TypeError, "numbers"),
    ],
)
def test_bad_scores_are_refused_in_words(members, error, message):
    with pytest.raises(error, match=message):
        roc_curve(members, [0.0])
    with pytest.raises(error, match=message.replace("member", "nonmember")):
        auc([0.0], members)


def test_bad_level_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1; got 1\.5"):
        roc_curve([1], [0]).tpr_at_fpr(1.5)
