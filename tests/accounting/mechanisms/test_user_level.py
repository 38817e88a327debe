"""Guarantees for users with several records: accounted for together, and as a group."""

from __future__ import annotations

import pytest
from dpjax_accounting import (
    BestOfRuns,
    FullBatch,
    GroupOfRecords,
)

from tests.support.mechanisms import dpsgd, full_batch, user_level

SST2 = dpsgd(67349, 1024, 1.0, 198)


@pytest.mark.parametrize(
    ("run", "delta", "exact", "black_box"),
    [
        (user_level(100000, 512, 1.0, 600, 4), 1e-6, 3.7932353346825733, 4.80698),
        (user_level(100000, 512, 2.0, 600, 16), 1e-6, 5.588821153387024, 5.98323),
        (user_level(1000000, 4096, 3.0, 1000, 32), 1e-7, 8.230499092805262, 9.00015),
    ],
)
def test_users_with_several_records(run, delta, exact, black_box):
    record = dpsgd(run.num_records, run.expected_batch_size, run.noise_multiplier, run.num_steps)
    epsilon = run.epsilon(delta)
    assert exact < epsilon < exact * (1 + 1e-5)
    group = GroupOfRecords(record, records_per_user=run.records_per_user).epsilon(delta)
    # The reference group bound uses k e^{(k - 1) ε} δ, which is a little looser.
    assert epsilon < group < black_box
    assert group > 0.98 * black_box
    assert epsilon > record.epsilon(delta)


@pytest.mark.parametrize(
    ("run", "k"), [(full_batch(20.0, 4), 8), (full_batch(2000.0, 4), 1000), (SST2, 4)]
)
def test_groups_of_records(run, k):
    group = GroupOfRecords(run, records_per_user=k)
    epsilon = group.epsilon(1e-5)
    assert group.delta(epsilon) <= 1e-5 < group.delta(0.999 * epsilon)
    if isinstance(run, FullBatch):
        # All k records together are one contribution of k clip norms.
        whole = full_batch(run.noise_multiplier / k, run.num_steps)
        assert whole.epsilon(1e-5) < epsilon < 1.3 * whole.epsilon(1e-5)


@pytest.mark.parametrize(("run", "k"), [(SST2, 8), (dpsgd(1000, 30, 1.0, 20), 1000)])
def test_groups_that_are_too_large_for_their_delta_are_refused_in_words(run, k):
    group = GroupOfRecords(run, records_per_user=k)
    assert group.delta(900.0) == 1.0
    words = f"records_per_user={k} at delta=1e-05: the group bound cannot be met at this delta. Use"
    with pytest.raises(ValueError, match=words):
        group.epsilon(1e-5)


def test_a_delta_below_every_float_is_not_nothing_for_a_group():
    selection = BestOfRuns(full_batch(8.0, 3), mean_runs=5.0)
    assert selection.delta(5000.0) == 1e-25
    assert GroupOfRecords(selection, records_per_user=1000).delta(5000.0 * 1000) == 1.0
