"""What statistics are refused, and the toy record's."""

import dataclasses

import numpy as np
import pytest

from dpjax.audit import statistics_from_logits
from tests.support.token_toys import BASE_LOGITS, TOKENS, made_up, toy


def test_the_toy_record():
    expected = [-1.244156, -3.304904, -1.930384, -1.400268, -0.245307, -0.919869]
    np.testing.assert_allclose(toy().log_probs[0], expected, atol=5e-7)
    expected = [-0.062776, -2.522226, -3.744221, -3.190584, -4.521353, -2.132266]
    np.testing.assert_allclose(toy(BASE_LOGITS).log_probs[0], expected, atol=5e-7)
    assert toy().is_argmax.tolist() == [[False, False, False, False, True, False]]


def test_a_token_without_probability_elsewhere_does_no_harm():
    logits = np.array([[[0.0, 0.0, -np.inf]]])
    statistics = statistics_from_logits(logits, np.array([[0]]), np.array([[True]]))
    np.testing.assert_allclose(statistics.vocab_mean, np.log(0.5))
    np.testing.assert_allclose(statistics.vocab_variance, 0, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("log_probs", np.nan, "log_probs must be finite .* got nan for record 0, token 2; 1 such"),
        ("log_probs", -np.inf, "log_probs must be finite .* got -inf"),
        ("log_probs", 0.5, "log_probs must be at most 0 .* got 0.5 for record 0, token 2"),
        ("vocab_mean", np.inf, "vocab_mean must be finite"),
        ("vocab_variance", -1.0, "vocab_variance must be at least 0"),
    ],
)
def test_impossible_values_are_refused_at_targets_only(name, value, message):
    statistics = toy()
    array = getattr(statistics, name).copy()
    array[0, 2] = value
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(statistics, **{name: array})
    elsewhere = statistics.is_target.copy()
    elsewhere[0, 2] = False
    dataclasses.replace(statistics, **{name: array}, is_target=elsewhere)


def test_arrays_of_other_kinds_are_refused():
    with pytest.raises(TypeError, match="is_target must be a numpy array of bool, got int64"):
        dataclasses.replace(toy(), is_target=np.ones((1, 6), np.int64))
    with pytest.raises(TypeError, match="log_probs must be a numpy array of floating point, got l"):
        dataclasses.replace(toy(), log_probs=[[-1.0]])
    with pytest.raises(ValueError, match=r"vocab_mean must have shape \(N, T\), got \(6,\)"):
        dataclasses.replace(toy(), vocab_mean=np.zeros(6))
    with pytest.raises(ValueError, match="must have one shape"):
        dataclasses.replace(toy(), vocab_mean=np.zeros((1, 5)))
    with pytest.raises(ValueError, match="at least 1 record, got 0"):
        made_up(np.zeros((0, 3)))


def test_logits_that_do_not_fit_are_refused():
    every = np.ones((1, 6), bool)
    with pytest.raises(ValueError, match=r"logits must have shape \(N, T, V\)"):
        statistics_from_logits(np.zeros((1, 5, 4)), TOKENS, every)
    with pytest.raises(ValueError, match="tokens must be from 0 to 2, got others"):
        statistics_from_logits(np.zeros((1, 6, 3)), TOKENS, every)


def test_records_are_taken_by_number_or_by_mask():
    statistics = made_up([[-1.0, -2.0], [-3.0, -4.0]])
    assert statistics.take(np.array([1, 0])).log_probs.tolist() == [[-3.0, -4.0], [-1.0, -2.0]]
    assert len(statistics.take(np.array([False, True]))) == 1
