"""LiRA against known numbers, scipy's densities, and the cases that must be refused."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpjax.audit import bavaria_scores, lira_scores

IN, OUT, TARGET = [2.0, 2.4, 1.9, 2.2], [0.5, 0.9, 0.1, 0.7], [1.6]


def one_record(inside=IN, outside=OUT):
    shadows = np.array([*inside, *outside])[:, None]
    return shadows, np.arange(len(shadows))[:, None] < len(inside)


def unequal(num_shadows=9, num_records=6):
    """Random scores; record j is in 2 + j % 4 shadows."""
    rng = np.random.default_rng(0)
    numbers = 2 + np.arange(num_records) % 4
    membership = rng.permuted(np.arange(num_shadows)[:, None] < numbers, axis=0)
    shadows = rng.normal(membership * 2.0, 1.0 + np.arange(num_records) / 3)
    return rng.normal(1, 1, num_records), shadows, membership


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"center": "median"}, 2.756508),
        ({"center": "mean"}, 2.994764),
        ({"offline": True}, 3.549648),
    ],
)
def test_known_values(options, expected):
    (score,) = lira_scores(TARGET, *one_record(), variance="record", **options)
    assert score == pytest.approx(expected, abs=5e-7)


def test_offline_score_orders_as_the_papers_probability():
    (score,) = lira_scores(TARGET, *one_record(), variance="record", offline=True)
    assert stats.norm.cdf(score) == pytest.approx(0.999807, abs=5e-7)


@pytest.mark.parametrize("offline", [False, True])
def test_each_record_has_its_own_shadows(offline):
    targets, shadows, membership = unequal()
    scores = lira_scores(targets, shadows, membership, variance="record", offline=offline)
    for j, score in enumerate(scores):
        inside, outside = shadows[membership[:, j], j], shadows[~membership[:, j], j]
        log_out = stats.norm.logpdf(targets[j], outside.mean(), outside.std())
        log_in = stats.norm.logpdf(targets[j], inside.mean(), inside.std())
        z = (targets[j] - outside.mean()) / outside.std()
        assert score == pytest.approx(z if offline else log_in - log_out, rel=1e-12)


def test_pooled_variance_is_around_each_records_mean():
    targets, shadows, membership = unequal()
    sides = [[shadows[m, j] for j, m in enumerate(side.T)] for side in (membership, ~membership)]
    sigma = [
        np.sqrt(sum(np.sum((x - x.mean()) ** 2) for x in side) / sum(len(x) - 1 for x in side))
        for side in sides
    ]
    logs = [
        stats.norm.logpdf(targets, [x.mean() for x in side], s)
        for side, s in zip(sides, sigma, strict=True)
    ]
    scores = lira_scores(targets, shadows, membership, variance="pooled")
    np.testing.assert_allclose(scores, logs[0] - logs[1], rtol=1e-12)
    # A spread between records is no spread between shadows.
    moved = 100.0 * np.arange(len(targets))
    again = lira_scores(targets + moved, shadows + moved, membership, variance="pooled")
    np.testing.assert_allclose(again, scores, rtol=1e-9)


@pytest.mark.parametrize(("num_shadows", "name"), [(62, "pooled"), (64, "record")])
def test_few_shadows_share_one_variance(num_shadows, name):
    rng = np.random.default_rng(3)
    membership = np.arange(num_shadows)[:, None] % 2 == [0, 1, 0]
    data = rng.normal(size=3), rng.normal(size=(num_shadows, 3)), membership
    np.testing.assert_array_equal(lira_scores(*data), lira_scores(*data, variance=name))


finite = st.floats(-50, 50)
spreads = st.lists(st.integers(-40, 40), min_size=3, max_size=8, unique=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(finite, min_size=1, max_size=1), spreads, spreads, finite, st.floats(0.1, 10))
@pytest.mark.parametrize("attack", [lira_scores, bavaria_scores])
def test_scale_and_origin_of_scores_mean_nothing(attack, target, inside, outside, shift, factor):
    shadows, membership = one_record(inside, outside)
    scores = attack(target, shadows, membership)
    moved = attack(factor * np.array(target) + shift, factor * shadows + shift, membership)
    np.testing.assert_allclose(moved, scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("attack", [lira_scores, bavaria_scores])
def test_order_of_shadows_means_nothing(attack):
    targets, shadows, membership = unequal()
    scores = attack(targets, shadows, membership)
    np.testing.assert_allclose(attack(targets, shadows[::-1], membership[::-1]), scores)
    # One that is left out cannot matter offline.
    offline = attack(targets, shadows, membership, offline=True)
    changed = np.where(membership, shadows + 7, shadows)
    np.testing.assert_allclose(attack(targets, changed, membership, offline=True), offline)


@pytest.mark.parametrize("attack", [lira_scores, bavaria_scores])
@pytest.mark.parametrize("offline", [False, True])
def test_a_member_scores_higher(attack, offline):
    rng = np.random.default_rng(5)
    difficulty = rng.normal(0, 3, 200)
    membership = rng.permuted(np.arange(8)[:, None] < np.full(200, 4), axis=0)
    shadows = rng.normal(difficulty + 2 * membership, 0.5)
    is_member = np.arange(200) % 2 == 0
    targets = rng.normal(difficulty + 2 * is_member, 0.5)
    scores = attack(targets, shadows, membership, offline=offline)
    caught = np.mean(scores[is_member, None] > scores[~is_member])
    by_loss = np.mean(targets[is_member, None] > targets[~is_member])
    assert caught > 0.95 > 0.75 > by_loss


def broken(place, value):
    """The case of one record with one entry replaced."""
    data = [np.array(TARGET), *one_record()]
    data[place].flat[0] = value
    return data


@pytest.mark.parametrize("attack", [lira_scores, bavaria_scores])
@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (broken(0, np.nan), ValueError, r"target_scores must be finite, got nan at \(0,\)"),
        (broken(1, np.inf), ValueError, r"shadow_scores must be finite, got inf at \(0, 0\)"),
        ((TARGET, *one_record([], OUT)), ValueError, "trained on each record, got none for record"),
        ((TARGET, *one_record(IN, [])), ValueError, "left out each record, got none for record 0"),
        ((TARGET, *one_record([1.0], [0.0])), ValueError, "two out shadows, got one for each"),
        ((TARGET, *one_record(IN, [0.1] * 3)), ValueError, "must vary between the out shadows"),
        ((TARGET * 2, *one_record()), ValueError, r"got \(2,\), \(8, 1\) and \(8, 1\)"),
        (([], np.zeros((2, 0)), np.ones((2, 0), bool)), ValueError, "non-empty array"),
        ((TARGET, one_record()[0], np.ones((8, 1), int)), TypeError, "boolean, got int64"),
        ((["high"], *one_record()), TypeError, "must be an array of numbers"),
    ],
)
def test_what_cannot_be_scored_is_refused(attack, data, error, message):
    with pytest.raises(error, match=message):
        attack(*data)


def test_many_records_without_a_shadow_are_counted():
    membership = np.zeros((4, 9), bool)
    message = re.escape("got none for records 0, 1, 2, 3, 4 and 4 more")
    with pytest.raises(ValueError, match=message):
        lira_scores(np.zeros(9), np.zeros((4, 9)), ~membership)
    with pytest.raises(ValueError, match=message):
        lira_scores(np.zeros(9), np.zeros((4, 9)), membership)


def test_a_variance_of_zero_is_refused():
    targets, shadows, membership = unequal()
    shadows[:, 2] = 0.1
    message = "variance of 0 for record 2, which has 5 of them, and 1 such records"
    with pytest.raises(ValueError, match=message):
        lira_scores(targets, shadows, membership, variance="record")
    assert np.isfinite(lira_scores(targets, shadows, membership, variance="pooled")).all()


@pytest.mark.parametrize("options", [{"variance": "global"}, {"center": "mode"}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match="must be one of"):
        lira_scores(TARGET, *one_record(), **options)
