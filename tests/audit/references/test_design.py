"""Designs: balanced, fair for each record, and a function of the key alone."""

import numpy as np
import pytest
from scipy import stats

from dpjax.audit import balanced_membership, shadow_key
from dpjax.audit.references.batches import draw_batches
from dpjax.privatize import RunKey

KEY = RunKey.from_seed(0)


@pytest.mark.parametrize(("num_shadows", "num_records"), [(2, 1), (4, 7), (32, 100)])
def test_each_record_is_in_half_of_the_shadows(num_shadows, num_records):
    membership = balanced_membership(num_shadows, num_records, run_key=KEY)
    assert membership.shape == (num_shadows, num_records)
    assert membership.dtype == bool
    assert set(membership.sum(axis=0).tolist()) == {num_shadows // 2}


def test_every_half_is_as_likely():
    membership = balanced_membership(4, 6000, run_key=KEY)
    halves, counts = np.unique(membership, axis=1, return_counts=True)
    assert halves.shape == (4, 6)
    assert stats.chisquare(counts).pvalue > 1e-3
    # Two records say nothing of each other.
    pairs = np.unique(membership.reshape(8, 3000), axis=1, return_counts=True)[1]
    assert len(pairs) == 36 and stats.chisquare(pairs).pvalue > 1e-3


def test_the_key_decides():
    first = balanced_membership(4, 50, run_key=KEY)
    np.testing.assert_array_equal(first, balanced_membership(4, 50, run_key=RunKey.from_seed(0)))
    assert (first != balanced_membership(4, 50, run_key=RunKey.from_seed(1))).any()
    secrets = {shadow_key(KEY, shadow).secret for shadow in range(20)} | {KEY.secret}
    assert len(secrets) == 21


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 5), "num_shadows must be even and at least 2, got 3"),
        ((0, 5), "num_shadows must be even and at least 2, got 0"),
        ((2, 0), "num_records must be at least 1"),
    ],
)
def test_impossible_designs_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        balanced_membership(*sizes, run_key=KEY)


def test_another_key_is_refused():
    with pytest.raises(TypeError, match="run_key must be a RunKey, got int"):
        balanced_membership(2, 5, run_key=0)


@pytest.mark.parametrize("microbatch_size", [None, 1, 3, 100])
def test_batches_hold_what_the_sampler_draws(microbatch_size):
    membership = balanced_membership(4, 30, run_key=KEY)
    keys = [shadow_key(KEY, shadow) for shadow in range(4)]
    batches = draw_batches(
        membership, keys, num_steps=50, expected_batch_size=2, microbatch_size=microbatch_size
    )
    sizes = []
    for shadow in range(4):
        for step in range(50):
            counts = batches.counts[shadow, step]
            rows = batches.rows[shadow, step][counts]
            assert membership[shadow, rows].all()
            assert len(set(rows)) == len(rows)
            sizes.append(len(rows))
    # Nothing is cut off, empty batches stay.
    assert batches.rows[0, 0].size >= max(sizes) > 4
    assert min(sizes) == 0
    assert np.mean(sizes) == pytest.approx(2, abs=5 * np.sqrt(2 / 200))


def test_shadows_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="got 3, and shadow 1 trains on 2"):
        draw_batches(
            np.array([[True] * 3, [True, True, False]]),
            [KEY, KEY],
            num_steps=1,
            expected_batch_size=3,
            microbatch_size=None,
        )
