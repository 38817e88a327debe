"""Coins: fair, independent of each other, of their order and of all other draws; sealed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpjax.audit.canaries.coins import Coins, flip_coins, hold_out, order_scores
from dpjax.privatize import RunKey

KEY = RunKey.from_seed(7)
IDS = [f"canary-{number}" for number in range(4000)]


def by_id(coins):
    return dict(zip(coins.ids, coins.included.tolist(), strict=True))


def test_coins_are_fair_and_independent():
    included = flip_coins(IDS, run_key=KEY).included
    assert stats.binomtest(int(included.sum()), len(IDS)).pvalue > 1e-3
    # Neighbouring ids, and the same ids under another key or for another purpose.
    others = (
        np.roll(included, 1),
        flip_coins(IDS, run_key=RunKey.from_seed(8)).included,
        hold_out(IDS, run_key=KEY).coins.included,
    )
    for other in others:
        agreed = int((included == other).sum())
        assert stats.binomtest(agreed, len(IDS)).pvalue > 1e-3


@pytest.mark.parametrize("probability_out", [0.01, 0.3, 0.5, 0.9])
def test_records_are_held_out_with_their_probability(probability_out):
    split = hold_out(IDS, run_key=KEY, probability_out=probability_out)
    assert stats.binomtest(len(split.non_members), len(IDS), probability_out).pvalue > 1e-3
    assert split.coins.is_fair == (probability_out == 0.5)
    assert sorted(split.members + split.non_members) == sorted(IDS)
    assert [name for name in IDS if name in set(split.members)] == list(split.members)


@settings(max_examples=20, deadline=None)
@given(st.permutations(IDS[:12]), st.integers(1, 12))
def test_a_coin_depends_on_its_id_alone(ids, count):
    whole = by_id(flip_coins(IDS, run_key=KEY))
    assert by_id(flip_coins(ids[:count], run_key=KEY)) == {
        name: whole[name] for name in ids[:count]
    }


def test_coins_are_a_function_of_the_secret():
    again = RunKey(KEY.secret)
    assert (flip_coins(IDS, run_key=again).included == flip_coins(IDS, run_key=KEY).included).all()
    assert flip_coins(IDS, run_key=KEY).fixed_seed
    assert not flip_coins(IDS, run_key=again).fixed_seed


def test_published_streams_are_not_those_of_coins():
    """The fingerprint of a key is published."""
    coins = flip_coins(IDS[:3], run_key=KEY)
    assert KEY.fingerprint() not in coins.salt.hex()
    assert KEY.audit_bytes("x", 16).hex() != KEY.fingerprint()
    names = ["coin/canary/a", "coin/hold-out/a", "salt/coins/canary", "salt/coins/hold-out"]
    assert len({KEY.audit_bytes(name, 32) for name in names}) == len(names)


def test_repr_and_commitment_show_no_coin():
    coins = flip_coins(IDS[:5], run_key=KEY)
    assert repr(coins) == "Coins(5 ids, probability_out=0.5)"
    flipped = Coins(**(vars(coins) | {"included": ~coins.included}))
    resalted = Coins(**(vars(coins) | {"salt": bytes(32)}))
    digests = {coins.commitment(), flipped.commitment(), resalted.commitment()}
    assert len(digests) == 3 and all(len(digest) == 64 for digest in digests)


def test_commitment_fixes_ids_too():
    coins = flip_coins(["a", "b"], run_key=KEY)
    renamed = Coins(**(vars(coins) | {"ids": ("a", "c")}))
    assert coins.commitment() != renamed.commitment()


def test_scores_are_joined_by_id():
    values = order_scores(("a", "b", "c"), {"c": np.inf, "a": 1, "b": -2.0})
    assert values.tolist() == [1.0, -2.0, np.inf] and values.dtype == np.float64


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"a": 1.0}, "1 of 2 ids have no score, such as 'b'"),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, "1 scores have ids that no coin has, such as 'c'"),
        ({"a": 1.0, "b": np.nan}, "the score of 'b' is NaN"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        order_scores(("a", "b"), scores)


@pytest.mark.parametrize("ids", [[], "abc", ["a", "a"], ["a", ""], ["a", 1], ["\ud800"]])
def test_ids_that_do_not_fit_are_refused(ids):
    for function in (flip_coins, hold_out):
        with pytest.raises(ValueError, match="ids must be"):
            function(ids, run_key=KEY)


@pytest.mark.parametrize("probability_out", [0, 1, -0.1, 1.5, np.nan, np.inf])
def test_probabilities_that_split_nothing_are_refused(probability_out):
    with pytest.raises(ValueError, match="probability_out must be between 0 and 1"):
        hold_out(["a"], run_key=KEY, probability_out=probability_out)
