"""Simulated clients: who gets which records."""

import numpy as np
import pytest

from dpjax.federated import ClientRecords, dirichlet_partition, even_partition
from dpjax.federated.client_records import as_local_batches

LABELS = ["good", "bad"] * 500


def skew(clients):
    """How far clients are from the mix of labels of all, on average over records."""
    is_good = np.array(LABELS) == "good"
    counts = np.bincount(clients, minlength=20)
    shares = np.bincount(clients, is_good, minlength=20) / np.maximum(1, counts)
    return np.average(np.abs(shares - 0.5), weights=counts)


def test_a_small_alpha_gives_clients_of_few_labels():
    found = [skew(dirichlet_partition(LABELS, num_clients=20, alpha=a)) for a in (0.1, 1, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.3
    assert found[-1] < 0.1


def test_the_same_seed_deals_the_same():
    first, again, other = (
        dirichlet_partition(LABELS, num_clients=20, alpha=0.5, seed=seed) for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_a_record_with_another_label_moves_no_other_record():
    before = dirichlet_partition(LABELS, num_clients=20, alpha=0.5)
    changed = ["new", *LABELS[1:]]
    after = dirichlet_partition(changed, num_clients=20, alpha=0.5)
    assert (before[1:] == after[1:]).all()


def test_an_even_deal_reads_nothing_and_gives_each_as_many():
    counts = np.bincount(even_partition(103, num_clients=10))
    assert set(counts) == {10, 11}


@pytest.mark.parametrize(
    ("call", "words"),
    (
        (lambda: dirichlet_partition(LABELS, num_clients=1, alpha=1.0), "num_clients"),
        (lambda: dirichlet_partition(LABELS, num_clients=5, alpha=0.0), "alpha"),
        (lambda: dirichlet_partition(LABELS, num_clients=5, alpha=1.0, seed=-1), "seed"),
        (lambda: even_partition(5, num_clients=6), "at most the 5 records, got 6"),
        (lambda: ClientRecords(np.ones(2), "ab", batch_size=0, at_most=1), "batch_size"),
        (lambda: ClientRecords(np.ones(2), "ab", batch_size=1, at_most=0), "at_most"),
    ),
)
def test_numbers_out_of_range_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_local_batches_hold_each_record_once():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 14, 30)
    mask = np.arange(13) < counts[:, None]
    rows = np.where(mask, np.arange(30 * 13).reshape(30, 13), 13 * np.arange(30)[:, None])
    batches, counted = as_local_batches(rows, mask, 4)
    assert batches.shape == (30, 4, 4)
    for client in range(30):
        assert batches[client][counted[client]].tolist() == rows[client][mask[client]].tolist()
        assert set(batches[client].ravel()) <= set(rows[client])
    with pytest.raises(ValueError, match="leave out rows that count"):
        as_local_batches(rows, mask, 4, num_batches=3)
