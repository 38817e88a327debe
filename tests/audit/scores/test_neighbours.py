"""Neighbours of records, and how probable they are."""

import dataclasses

import numpy as np
import pytest

from dpjax.audit import (
    Neighbours,
    mean_log_probs,
    neighbour_log_probs,
    probable_tokens,
    replace_tokens,
)
from tests.support.language_records import random_records
from tests.support.tiny_checkpoints import random_model

RECORDS = random_records([12, 3, 20, 2], first_target=1)


def replaced(candidates, share=0.3, seed=0, records=RECORDS):
    rng = np.random.default_rng(seed)
    changed = replace_tokens(records, candidates, share=share, rng=rng)
    return changed, changed.input_ids != records.input_ids


def test_the_stated_number_of_target_tokens_changes():
    later = dataclasses.replace(RECORDS, loss_mask=RECORDS.loss_mask & (np.arange(20) != 1))
    later = later.take(np.array([0, 1, 2]))
    for seed in range(20):
        changed, is_changed = replaced(np.arange(61), seed=seed, records=later)
        assert not (is_changed & ~later.loss_mask).any()
        assert is_changed.sum(axis=1).tolist() == [3, 1, 5]
        np.testing.assert_array_equal(changed.loss_mask, later.loss_mask)
    _, is_changed = replaced(np.arange(61), share=1.0)
    np.testing.assert_array_equal(is_changed, RECORDS.loss_mask)


def test_positions_and_tokens_are_uniform():
    record = random_records([5])
    present = int(record.input_ids[0, 2])
    candidates = np.array([present, 61, 62, 63])
    counts, positions = np.zeros(64), np.zeros(5)
    for seed in range(4000):
        changed, is_changed = replaced(candidates, share=0.25, seed=seed, records=record)
        positions += is_changed[0]
        if is_changed[0, 2]:
            counts[changed.input_ids[0, 2]] += 1
    assert counts[present] == 0
    # Four standard deviations of a share of 1/4 among 4000, of 1/3 among about 1000.
    np.testing.assert_allclose(positions[1:] / 4000, 0.25, atol=0.028)
    np.testing.assert_allclose(counts[61:] / counts.sum(), 1 / 3, atol=0.06)


def test_every_position_has_candidates_of_its_own():
    candidates = 100 * np.arange(20)[None, :, None] + np.arange(3) + np.zeros((4, 1, 1), int)
    changed, is_changed = replaced(candidates)
    np.testing.assert_array_equal(changed.input_ids[is_changed] // 100, is_changed.nonzero()[1])


def test_log_probs_are_those_of_the_stated_procedure():
    tuned = random_model("gpt2", "causal_lm")
    proposer = random_model("gpt2", "causal_lm", logit_softcap=1.0)
    settings = Neighbours(number=3, share=0.5, top_k=4, seed=7)
    found = neighbour_log_probs(tuned, RECORDS, neighbours=settings, proposer=proposer)
    assert found.shape == (4, 3)
    candidates = probable_tokens(proposer, RECORDS, number=4)
    for index in range(3):
        rng = np.random.default_rng((7, index))
        changed = replace_tokens(RECORDS, candidates, share=0.5, rng=rng)
        np.testing.assert_allclose(found[:, index], mean_log_probs(tuned, changed), atol=1e-6)
    again = neighbour_log_probs(tuned, RECORDS, neighbours=settings, proposer=proposer)
    np.testing.assert_array_equal(found, again)
    other = dataclasses.replace(settings, seed=8, top_k=None)
    other = neighbour_log_probs(tuned, RECORDS, neighbours=other, proposer=proposer)
    assert (found != other).all(axis=0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number must be at least 1, got 0"),
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0"),
        ({"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
        ({"top_k": 1}, "top_k must be at least 2, or None for all, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Neighbours(**options)


def test_what_cannot_be_replaced_is_refused():
    with pytest.raises(ValueError, match="candidates must be at least 2 for a position, got 1"):
        replaced(np.array([5]))
    without = dataclasses.replace(RECORDS, loss_mask=np.zeros_like(RECORDS.loss_mask))
    with pytest.raises(ValueError, match="got 4 without"):
        replaced(np.arange(61), records=without)
