"""Scores of the tuned model alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.audit import (
    compressed_bytes,
    loss_score,
    lowercase_score,
    min_k_plus_score,
    min_k_score,
    neighbourhood_score,
    zlib_score,
)
from tests.support.token_toys import made_up, toy

FOX = "The quick brown fox jumps over the lazy dog."


@pytest.mark.parametrize("padding", [0, 3])
def test_the_toy_record(padding):
    record = toy(padding=padding)
    np.testing.assert_allclose(loss_score(record), -1.507481, atol=5e-7)
    min_k = [min_k_score(record, share=share)[0] for share in (0.2, 0.34, 0.5)]
    np.testing.assert_allclose(min_k, [-3.304904, -2.617644, -2.211852], atol=5e-7)
    min_k_plus = [min_k_plus_score(record, share=share)[0] for share in (0.2, 0.34, 0.5, 1.0)]
    expected = [-3.084015, -2.106863, -1.513582, -0.724857]
    np.testing.assert_allclose(min_k_plus, expected, atol=5e-7)


def test_standardised_tokens_of_the_toy_record():
    record = toy()
    found = [
        min_k_plus_score(made_up(*arrays, vocab_mean=mean, vocab_variance=variance))[0]
        for arrays, mean, variance in zip(
            ([value] for value in record.log_probs[0]),
            record.vocab_mean[0],
            record.vocab_variance[0],
            strict=True,
        )
    ]
    expected = [-0.327020, -3.084015, -1.129711, -0.216228, 0.505075, -0.097246]
    np.testing.assert_allclose(found, expected, atol=5e-7)


def test_equally_probable_tokens_do_not_stand_out():
    # float32 leaves a variance and a distance that are rounding alone.
    flat = made_up([-10.8] * 4, vocab_mean=-10.8 + 1e-6, vocab_variance=1e-13)
    np.testing.assert_allclose(min_k_plus_score(flat), 0, atol=0.02)


def test_a_share_that_rounding_puts_below_a_whole_number():
    # 0.29 * 100 is 28.999...: 29 tokens count, and the 29th is the last of -2.
    log_probs = np.where(np.arange(100) < 29, -2.0, -1.0)
    assert min_k_score(made_up(log_probs), share=0.29)[0] == -2.0
    assert min_k_score(made_up([-1.0, -3.0]), share=0.2)[0] == -3.0


def test_zlib():
    assert compressed_bytes(FOX) in range(49, 54)
    record = toy()
    np.testing.assert_allclose(
        zlib_score(record, [FOX]), loss_score(record) / compressed_bytes(FOX)
    )
    with pytest.raises(ValueError, match="texts must be 1, one for each record, got 2"):
        zlib_score(record, [FOX, FOX])


def test_lowercase_and_neighbourhood_are_differences_of_means():
    record = toy()
    lower = made_up([[-2.0, -4.0]])
    np.testing.assert_allclose(lowercase_score(record, lower), 3.0 + loss_score(record))
    np.testing.assert_allclose(
        neighbourhood_score(record, [[-2.0, -4.0]]), 3.0 + loss_score(record)
    )
    with pytest.raises(ValueError, match="lowercase must be of 1 records, got 2"):
        lowercase_score(record, made_up([[-1.0], [-1.0]]))
    with pytest.raises(ValueError, match=r"neighbours must have shape \(1, n\) with n ≥ 1"):
        neighbourhood_score(record, [-2.0])
    with pytest.raises(ValueError, match="neighbours must be finite"):
        neighbourhood_score(record, [[np.nan]])


@pytest.mark.parametrize("score", [loss_score, min_k_score, min_k_plus_score])
def test_a_record_without_targets_is_refused(score):
    statistics = made_up([[-1.0], [-1.0]], is_target=[[True], [False]])
    with pytest.raises(
        ValueError, match=r"got 1 without, the first being record 1\. Leave them out"
    ):
        score(statistics)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        min_k_score(toy(), share=share)
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        min_k_plus_score(toy(), share=share)


rows = st.lists(
    st.lists(st.one_of(st.none(), st.floats(-20, 0)), min_size=5, max_size=5).filter(
        lambda row: any(value is not None for value in row)
    ),
    min_size=1,
    max_size=4,
)


@given(rows, st.floats(0.01, 1))
def test_scores_equal_a_loop_over_records(table, share):
    is_target = np.array([[value is not None for value in row] for row in table])
    # What stands where there is no target must not matter: here it is NaN.
    log_probs = np.array([[np.nan if v is None else v for v in row] for row in table])
    statistics = made_up(log_probs, is_target=is_target)
    for index, row in enumerate(table):
        targets = sorted(value for value in row if value is not None)
        lowest = targets[: max(1, int(share * len(targets) + 1e-9))]
        np.testing.assert_allclose(loss_score(statistics)[index], np.mean(targets), atol=1e-12)
        found = min_k_score(statistics, share=share)[index]
        np.testing.assert_allclose(found, np.mean(lowest), atol=1e-12)
        found = min_k_plus_score(statistics, share=share)[index]
        np.testing.assert_allclose(found, np.mean(lowest) + 1, atol=1e-12)
