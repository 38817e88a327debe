"""The logit of a confidence where the probability itself has no digits left."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.audit import classifier_confidence, language_confidence


@settings(deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=5), st.data())
def test_it_is_the_logit_of_the_probability(logits, data):
    label = data.draw(st.integers(0, len(logits) - 1))
    probabilities = np.exp(logits) / np.sum(np.exp(logits))
    expected = np.log(probabilities[label] / (np.sum(np.delete(probabilities, label))))
    assert classifier_confidence([logits], [label])[0] == pytest.approx(expected, abs=1e-9)


def test_probabilities_next_to_0_and_1_keep_their_digits():
    scores = classifier_confidence([[800.0, 1.0], [800.0, 1.0], [-1e4, 3.0]], [0, 1, 0])
    assert scores.tolist() == [799.0, -799.0, -10003.0]
    # float32 logits of three classes, a loss of 2e-20 nats.
    (score,) = classifier_confidence(np.array([[50, 5, 5]], np.float32), [0])
    assert score == pytest.approx(45 - np.log(2), abs=1e-12)


def test_shadows_have_leading_axes():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5))
    labels = np.array([0, 1, 2, 4])
    scores = classifier_confidence(logits, labels)
    assert scores.shape == (3, 4)
    np.testing.assert_array_equal(scores[1], classifier_confidence(logits[1], labels))


def test_language_confidence_is_the_logit():
    p = np.array([[0.1, 0.5], [0.9, 1e-12]])
    np.testing.assert_allclose(language_confidence(np.log(p)), np.log(p / (1 - p)), rtol=1e-9)
    assert language_confidence([-1e-6])[0] == pytest.approx(np.log(1e6), rel=1e-6)


def test_a_probability_of_one_is_finite_and_the_largest():
    scores = language_confidence([0.0, 5e-7, -1e-8, -1e-6])
    assert scores[0] == scores[1] == scores[2] == pytest.approx(24 * np.log(2), rel=1e-6)
    assert scores[2] > scores[3]


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        ([[0.0, np.nan]], [0], ValueError, "logits must be finite"),
        ([[0.0]], [0], ValueError, "K ≥ 2"),
        ([[0.0, 1.0]], [2], ValueError, "labels must be from 0 to 1, got 2 to 2"),
        ([[0.0, 1.0]], [-1], ValueError, "labels must be from 0 to 1, got -1"),
        ([[0.0, 1.0]], [0, 1], ValueError, r"got \(1, 2\) and \(2,\)"),
        ([[0.0, 1.0]], [0.0], TypeError, "labels must be integers"),
        ([0.0, 1.0], [0], ValueError, r"got \(2,\) and \(1,\)"),
    ],
)
def test_bad_logits_are_refused(logits, labels, error, message):
    with pytest.raises(error, match=message):
        classifier_confidence(logits, labels)


@pytest.mark.parametrize(
    ("values", "message"), [([0.1], "at most 0, got 0.1"), ([np.nan], "finite"), ([], "non-empty")]
)
def test_bad_log_probabilities_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        language_confidence(values)
