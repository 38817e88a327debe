"""Scores of classified records."""

import jax
import numpy as np
import pytest

from dpjax.audit import class_logits, class_loss_score, confidence_score, margin_score
from dpjax.data import TextDataset
from tests.support.tiny_checkpoints import random_model, run

LOGITS = np.array([[2.0, 0.0, -1.0], [1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
LABELS = np.array([0, 1, 2])
ALL = (class_loss_score, margin_score, confidence_score)


def test_values():
    probs = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    of_label = probs[np.arange(3), LABELS]
    np.testing.assert_allclose(class_loss_score(LOGITS, LABELS), np.log(of_label), rtol=1e-12)
    np.testing.assert_allclose(margin_score(LOGITS, LABELS), [2.0, 0.0, 0.0])
    expected = np.log(of_label / (1 - of_label))
    np.testing.assert_allclose(confidence_score(LOGITS, LABELS), expected, rtol=1e-12)


def test_confidence_near_one_keeps_its_digits():
    found = confidence_score([[400.0, 0.0, 0.0], [-400.0, 0.0, 0.0]], [0, 0])
    np.testing.assert_allclose(found, [400 - np.log(2), -400 - np.log(2)], rtol=1e-15)
    assert class_loss_score([[400.0, 0.0]], [0]).tolist() == [0.0]


@pytest.mark.parametrize("score", ALL)
def test_impossible_arguments_are_refused(score):
    with pytest.raises(ValueError, match="labels must be from 0 to 2, got 0 to 3"):
        score(LOGITS, [0, 1, 3])
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\), got \(2,\)"):
        score(LOGITS, [0, 1])
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        score(LOGITS, [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="logits must be finite, got another value for record 1"):
        score(np.where(LOGITS == 1.0, np.nan, LOGITS), LABELS)
    for logits in (np.zeros((3, 1)), np.zeros(3), np.zeros((0, 3))):
        with pytest.raises(ValueError, match=r"logits must have shape \(N, K\)"):
            score(logits, np.zeros(len(logits), int))


def test_logits_are_those_of_the_full_forward_pass():
    model = random_model("gpt2", "sequence_classification")
    mask = np.arange(15) < np.array([15, 3, 12, 9, 1])[:, None]
    ids = np.where(mask, jax.random.randint(jax.random.key(0), (5, 15), 3, 61), 0).astype(np.int32)
    records = TextDataset(ids, mask, np.zeros(5, bool), np.zeros(5, np.int32))
    found = class_logits(model, records, batch_size=2)
    np.testing.assert_allclose(found, run(model, ids, mask), atol=1e-5)
    with pytest.raises(TypeError, match="model must be a SequenceClassifier, got a CausalLM"):
        class_logits(random_model("gpt2", "causal_lm"), records)
    with pytest.raises(ValueError, match="at least 1 record"):
        class_logits(model, records.take(np.arange(0)))
