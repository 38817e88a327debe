"""Scores that compare the tuned model with its base."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.audit import ez_score, ratio_score, wbc_score
from tests.support.token_toys import BASE_LOGITS, made_up, toy


@pytest.mark.parametrize("padding", [0, 2])
def test_the_toy_record(padding):
    tuned, base = toy(padding=padding), toy(BASE_LOGITS, padding)
    np.testing.assert_allclose(ratio_score(tuned, base), 1.188090, atol=5e-7)
    np.testing.assert_allclose(ez_score(tuned, base, smoothing=1e-10), 2.452347, atol=5e-7)
    smoothed = (4.816549 + 0.1) / (1.964057 + 0.1)
    np.testing.assert_allclose(ez_score(tuned, base), smoothed, atol=5e-7)
    found = [wbc_score(tuned, base, windows=(w,))[0] for w in (1, 2, 3, 4, 6)]
    np.testing.assert_allclose(found, [2 / 3, 0.8, 0.75, 1, 1], atol=1e-12)
    np.testing.assert_allclose(wbc_score(tuned, base, windows=(2, 3, 4, 6)), 0.8875)
    # Windows that are longer than the record are left out.
    np.testing.assert_allclose(wbc_score(tuned, base), 0.8875)


def test_a_record_learnt_by_heart_scores_highest():
    base = made_up([[-3.0] * 4] * 5)
    tuned = made_up(
        [
            [-0.01] * 4,
            [-0.01, -0.01, -0.01, -1.0],
            [-0.01, -0.01, -0.01, -4.0],
            [-3.0] * 4,
            [-4.0] * 4,
        ],
        is_argmax=[[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4],
    )
    found = ez_score(tuned, base)
    assert (np.diff(found) < 0)[[0, 1, 3]].all()
    assert found.argmax() == 0
    assert found[3] == 1.0


def test_a_predictable_record_is_not_taken_for_a_learnt_one():
    base, tuned = made_up([[-0.011] * 4, [-3.0] * 4]), made_up([[-0.01] * 4] * 2, np.ones((2, 4)))
    predictable, learnt = ez_score(tuned, base)
    assert 1 < predictable < 1.1 < 50 < learnt


def test_an_untuned_model_gives_everything_the_same_score():
    for score, expected in ((ratio_score, 0.0), (ez_score, 1.0), (wbc_score, 0.0)):
        assert score(toy(), toy()).tolist() == [expected]


def test_one_token_is_a_window():
    tuned, base = made_up([[-1.0], [-3.0]]), made_up([[-2.0], [-2.0]])
    assert wbc_score(tuned, base).tolist() == [1.0, 0.0]
    short = [[True, False, False], [True, True, True]]
    tuned = made_up([[-1.0, -9.0, -9.0], [-1.0, -1.0, -6.0]], is_target=short)
    base = made_up([[-2.0] * 3] * 2, is_target=short)
    # The second: of two windows of 2 tokens the first rose, the window of 3 fell.
    assert wbc_score(tuned, base, windows=(2, 3)).tolist() == [1.0, 0.25]


def test_statistics_of_other_tokens_are_refused():
    other = made_up([[-1.0] * 6], is_target=[[1, 1, 1, 1, 1, 0]])
    for score in (ratio_score, ez_score, wbc_score):
        with pytest.raises(ValueError, match=r"same target tokens, got shapes .* 6 and 5 targets"):
            score(toy(), other)
        with pytest.raises(ValueError, match="same target tokens"):
            score(toy(), made_up([[-1.0] * 5]))
        nothing = made_up([[-1.0]], is_target=[[False]])
        with pytest.raises(ValueError, match="every record must have a target token"):
            score(nothing, nothing)


@pytest.mark.parametrize("windows", [(), (0, 2), (2, 2)])
def test_impossible_windows_are_refused(windows):
    with pytest.raises(ValueError, match="windows must be different lengths of at least 1"):
        wbc_score(toy(), toy(), windows=windows)


@pytest.mark.parametrize("smoothing", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing must be positive and finite"):
        ez_score(toy(), toy(), smoothing=smoothing)


pairs = st.lists(
    st.tuples(st.integers(-20, 0), st.integers(-20, 0), st.booleans(), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(pairs)
def test_scores_equal_a_loop_over_tokens(tokens):
    log_probs, base_log_probs, right, counts = (
        np.array(column) for column in zip(*tokens, strict=True)
    )
    counts[0] = True
    tuned = made_up(log_probs, is_argmax=right, is_target=counts)
    base = made_up(base_log_probs, is_target=counts)
    rise = [int(x) for x in (log_probs - base_log_probs)[counts]]
    np.testing.assert_allclose(ratio_score(tuned, base), np.mean(rise), atol=1e-12)
    wrong = [d for d, r in zip(rise, right[counts], strict=True) if not r]
    up = sum(d for d in (wrong or rise) if d > 0)
    down = sum(-d for d in wrong if d < 0)
    np.testing.assert_allclose(ez_score(tuned, base), (up + 0.1) / (down + 0.1))
    shares = [
        np.mean([sum(rise[i : i + w]) > 0 for i in range(len(rise) - w + 1)])
        for w in (2, 3, 4, 6, 9)
        if w <= len(rise)
    ]
    expected = np.mean(shares) if shares else float(sum(rise) > 0)
    np.testing.assert_allclose(wbc_score(tuned, base), expected)
