"""Plans of guess counts, and guesses whose order knows nothing of the coins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.audit import DEFAULT_PLAN, SYMMETRIC_PLAN, GuessPlan
from dpjax.audit.bounds.guesses import Guesses, checked_coins, count_correct

COINS = np.random.default_rng(0).random(200) < 0.5


@pytest.mark.parametrize(
    ("plan", "num_canaries", "expected"),
    [
        (DEFAULT_PLAN, 1000, [(20, 0), (80, 0), (80, 80), (200, 200), (400, 400)]),
        (SYMMETRIC_PLAN, 1000, [(75, 75), (200, 200), (400, 400)]),
        (DEFAULT_PLAN, 50, [(1, 0), (4, 0), (4, 4), (10, 10), (20, 20)]),
        (DEFAULT_PLAN, 12, [(2, 2), (4, 4)]),
        (DEFAULT_PLAN, 3, [(1, 1)]),
        (DEFAULT_PLAN, 1, [(1, 0)]),
        (GuessPlan(((0.4, 0.5), (0.5, 0.5))), 3, [(1, 1)]),
        (GuessPlan(((0.29, 0.0),)), 100, [(29, 0)]),
    ],
)
def test_counts_of_a_plan(plan, num_canaries, expected):
    assert plan.counts(num_canaries) == expected


@given(
    shares=st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=5),
    num_canaries=st.integers(1, 500),
)
def test_steps_are_nested_and_fit(shares, num_canaries):
    growing = np.maximum.accumulate(np.array(shares), axis=0)
    growing = [tuple(share) for share in growing.tolist() if sum(share) > 0]
    if not growing:
        return
    counts = GuessPlan(tuple(growing)).counts(num_canaries)
    before = (0, 0)
    for step in counts:
        assert before[0] <= step[0] and before[1] <= step[1] and step != before
        assert 0 < sum(step) <= num_canaries
        before = step


@pytest.mark.parametrize(
    "shares",
    [(), ((0.2, 0.2), (0.1, 0.3)), ((0.6, 0.5),), ((0.0, 0.0),), ((-0.1, 0.2),), ((np.nan, 0.1),)],
)
def test_bad_plans_are_refused(shares):
    with pytest.raises(ValueError, match=r"pair of shares|plan needs"):
        GuessPlan(shares)


def test_right_guesses_are_counted_at_both_ends():
    scores = np.array([5.0, 4.0, 3.0, -1.0, -2.0, np.inf, -np.inf, 0.0, 0.5, 0.6])
    coins = np.array([1, 0, 1, 0, 1, 1, 0, 0, 1, 0], dtype=bool)
    plan = GuessPlan(((0.2, 0.0), (0.3, 0.2)))
    # At the top inf, 5, 4 of which 4 is out; at the bottom −inf, −2 of which −2 is in.
    assert count_correct(scores, coins, plan) == [Guesses(2, 2), Guesses(5, 3)]


def test_equal_scores_do_not_tell_members_that_are_listed_first():
    coins = np.arange(1000) < 500
    for scores in (np.zeros(1000), np.full(1000, np.inf), np.repeat([0, 1, 0, 1], 250)):
        for step in count_correct(scores, coins):
            deviation = step.num_correct - step.num_guesses / 2
            assert abs(deviation) < 4 * np.sqrt(step.num_guesses) / 2


def test_equal_scores_of_both_kinds_are_no_hindrance():
    coins = np.arange(1000) % 2 == 0
    assert all(step.num_correct == step.num_guesses for step in count_correct(coins, coins))


def test_a_monotone_transform_and_a_list_change_nothing():
    scores = np.random.default_rng(1).normal(size=200).round(1)
    assert count_correct(scores, COINS) == count_correct(np.exp(scores).tolist(), COINS.tolist())


@pytest.mark.parametrize(
    ("scores", "coins", "error", "message"),
    [
        (np.full(200, np.nan), COINS, ValueError, "scores holds NaN for 200 of 200"),
        (np.zeros(199), COINS, ValueError, r"got shape \(200,\) for 199 scores"),
        (np.zeros((200, 1)), COINS, ValueError, "one number per record"),
        (np.zeros(200), COINS[:, None], ValueError, "one truth value per score"),
        (np.zeros(200), COINS.astype(int), TypeError, "included must hold truth values"),
        (np.zeros(200), COINS.astype(float), TypeError, "included must hold truth values"),
        (["a"] * 200, COINS, TypeError, "scores must be a list or array of numbers"),
        ([], np.zeros(0, bool), ValueError, "scores is empty"),
        (np.zeros(200), np.ones(200, bool), ValueError, "200 of 200 canaries were included"),
        (np.zeros(200), np.zeros(200, bool), ValueError, "0 of 200 canaries were included"),
        (np.zeros(200), np.arange(200) < 140, ValueError, "these are not fair coins"),
    ],
)
def test_bad_scores_and_coins_are_refused(scores, coins, error, message):
    with pytest.raises(error, match=message):
        count_correct(scores, coins)


def test_few_canaries_may_all_be_in_or_out():
    for coins in (np.ones(3, bool), np.zeros(3, bool), np.ones(20, bool)):
        assert checked_coins(coins, len(coins)) is not None
