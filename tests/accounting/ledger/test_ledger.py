"""What a ledger charges, settles, adds up, merges and refuses."""

import multiprocessing

import pytest
from dpjax_accounting import (
    Composition,
    DatasetIdentity,
    GroupOfRecords,
    Ledger,
    ShuffledDPSGD,
    merge_ledgers,
)

from tests.support.mechanisms import dpsgd, fixed_size, full_batch, random_allocation

DATA = DatasetIdentity.of([b"a", b"b"] * 50)
FIRST = dpsgd(100, 10, 2.0, 30)
SECOND = dpsgd(100, 20, 1.5, 12)


@pytest.fixture
def ledger(tmp_path):
    return Ledger.create(tmp_path / "data.ledger", DATA)


def test_an_identity_is_that_of_the_units_in_any_order():
    units = [b"x", b"y", b"y"]
    assert DatasetIdentity.of(units) == DatasetIdentity.of(units[::-1])
    others = [[b"x", b"y"], [b"x", b"x", b"y"], [b"xy", b"y", b""]]
    assert DatasetIdentity.of(units) not in map(DatasetIdentity.of, others)
    with pytest.raises(ValueError, match="num_units must be at least 1"):
        DatasetIdentity.of([])
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        DatasetIdentity("abc", 3)


def test_an_empty_ledger_has_spent_nothing(ledger):
    assert ledger.epsilon(1e-5) == 0.0 and ledger.composition() is None and ledger.entries() == ()


def test_a_run_counts_in_full_until_it_is_settled(ledger):
    ledger.charge("one", FIRST, key="key 1")
    assert ledger.epsilon(1e-5) == pytest.approx(FIRST.epsilon(1e-5))
    ledger.settle("one", 7)
    assert ledger.epsilon(1e-5) == pytest.approx(FIRST.after(7).epsilon(1e-5))
    ledger.settle("one", 7)
    assert ledger.head.num_lines == 3


def test_a_resumed_run_is_charged_once(ledger):
    ledger.charge("one", FIRST, key="key 1")
    ledger.charge("one", FIRST, key="key 1")
    assert ledger.head.num_lines == 2
    ledger.settle("one", 7)
    ledger.charge("one", FIRST, key="key 1")
    assert ledger.epsilon(1e-5) == pytest.approx(FIRST.epsilon(1e-5))
    ledger.settle("one", 30)
    assert ledger.epsilon(1e-5) == pytest.approx(FIRST.epsilon(1e-5))


def test_a_repetition_with_a_fresh_key_is_another_run(ledger):
    ledger.charge("one", FIRST, key="key 1")
    with pytest.raises(ValueError, match="another key"):
        ledger.charge("one", FIRST, key="key 2")
    ledger.charge("one again", FIRST, key="key 2")
    twice = Composition((FIRST, FIRST)).epsilon(1e-5)
    assert ledger.epsilon(1e-5) == pytest.approx(twice)
    assert twice == pytest.approx(dpsgd(100, 10, 2.0, 60).epsilon(1e-5))


def test_runs_of_different_mechanisms_compose(ledger):
    ledger.charge("one", FIRST, key="key 1", note="adapters")
    ledger.charge("two", SECOND, key="key 2")
    ledger.settle("one", 10)
    ledger.charge("nothing taken", SECOND, key="key 3")
    ledger.settle("nothing taken", 0)
    by_hand = Composition((FIRST.after(10), SECOND)).epsilon(1e-5)
    assert ledger.epsilon(1e-5) == pytest.approx(by_hand)
    one, two, _ = ledger.entries()
    assert (one.note, one.num_steps, two.num_steps) == ("adapters", 10, None)
    assert by_hand < FIRST.epsilon(1e-5) + SECOND.epsilon(1e-5)


@pytest.mark.parametrize(
    ("run", "mechanism", "key", "message"),
    [
        ("one", SECOND, "key 1", "another mechanism"),
        ("two", SECOND, "key 1", "the same noise"),
        ("two", dpsgd(99, 10, 2.0, 30), "key 2", "num_units=99.*100"),
        ("two", full_batch(9.0, 3, num_units=99), "key 2", "num_units=99.*100"),
        ("", SECOND, "key 2", "run must be a text"),
        ("two", SECOND, "", "key must be a text"),
    ],
)
def test_charges_that_are_refused(ledger, run, mechanism, key, message):
    ledger.charge("one", FIRST, key="key 1")
    with pytest.raises(ValueError, match=message):
        ledger.charge(run, mechanism, key=key)
    assert ledger.head.num_lines == 2


def test_a_mechanism_that_does_not_say_how_many_units_fits_every_data_set(ledger):
    ledger.charge("one", full_batch(9.0, 3), key="key 1")
    ledger.charge("two", full_batch(9.0, 3, num_units=100), key="key 2")
    assert ledger.epsilon(1e-5) == pytest.approx(full_batch(9.0, 6).epsilon(1e-5))


def test_every_way_of_sampling_that_adds_up_may_be_in_it(ledger):
    epochs = ShuffledDPSGD(noise_multiplier=6.0, num_epochs=3, num_units=100, batch_size=30)
    ledger.charge("one", epochs, key="key 1")
    # Four steps make an epoch, and the second one was begun.
    ledger.settle("one", 5)
    assert ledger.epsilon(1e-5) == pytest.approx(full_batch(6.0, 2).epsilon(1e-5))
    fixed = fixed_size(100, 10, 3.0, 20, neighboring="zero_out")
    ledger.charge("two", fixed, key="key 2")
    by_hand = Composition((epochs.after(5), fixed)).epsilon(1e-5)
    assert ledger.epsilon(1e-5) == pytest.approx(by_hand)
    with pytest.raises(ValueError, match="neighboring='zero_out', the new mechanism has 'add_or"):
        ledger.charge("three", FIRST, key="key 3")


@pytest.mark.parametrize(
    "mechanism",
    [
        random_allocation(100, 10, 3.0, 2),
        Composition((FIRST, random_allocation(100, 10, 3.0, 2))),
        GroupOfRecords(FIRST, records_per_user=2),
    ],
    ids=["random allocation", "part of a composition", "group"],
)
def test_what_cannot_be_added_up_never_gets_into_it(ledger, mechanism):
    with pytest.raises(ValueError, match="cannot be added to others"):
        ledger.charge("one", mechanism, key="key 1")
    assert ledger.entries() == () and ledger.epsilon(1e-5) == 0.0


def test_settlements_that_are_refused(ledger):
    ledger.charge("one", FIRST, key="key 1")
    with pytest.raises(ValueError, match="Did you mean 'one'"):
        ledger.settle("on", 3)
    with pytest.raises(ValueError, match="beyond the last one"):
        ledger.settle("one", 31)
    ledger.settle("one", 3)
    with pytest.raises(ValueError, match="settled with 3 steps"):
        ledger.settle("one", 2)


def test_the_ledger_of_another_data_set_is_refused(ledger):
    assert Ledger.open(ledger.path, DATA).dataset == DATA
    other = DatasetIdentity.of([b"a", b"c"] * 50)
    with pytest.raises(ValueError, match=r"another data set: 100 records.*this one has 100"):
        Ledger.open(ledger.path, other)


def test_what_is_no_ledger_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Ledger(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileExistsError, match="exists already"):
        path = Ledger.open(tmp_path / "data.ledger", DATA).path
        Ledger.create(path, DATA)


def test_copies_merge_without_counting_twice(ledger, tmp_path):
    ledger.charge("one", FIRST, key="key 1")
    copy = merge_ledgers([ledger.path, ledger.path], tmp_path / "copy")
    assert copy.entries() == ledger.entries()
    copy.settle("one", 10)
    ledger.charge("two", SECOND, key="key 2")
    merged = merge_ledgers([ledger.path, copy.path], tmp_path / "merged")
    by_hand = Composition((FIRST.after(10), SECOND)).epsilon(1e-5)
    assert merged.epsilon(1e-5) == pytest.approx(by_hand)
    assert merged.head != ledger.head


def test_merges_that_are_refused(ledger, tmp_path):
    ledger.charge("one", FIRST, key="key 1")
    other = Ledger.create(tmp_path / "other", DATA)
    other.charge("one", SECOND, key="key 2")
    foreign = Ledger.create(tmp_path / "foreign", DatasetIdentity.of([b"z"]))
    same_key = Ledger.create(tmp_path / "same key", DATA)
    same_key.charge("two", FIRST, key="key 1")
    for path, message in [
        (other.path, "recorded in different ways"),
        (foreign.path, "another data set"),
        (same_key.path, "the same noise"),
    ]:
        with pytest.raises(ValueError, match=message):
            merge_ledgers([ledger.path, path], tmp_path / "merged")
    with pytest.raises(ValueError, match="at least two"):
        merge_ledgers([ledger.path], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def _charge_twenty(path, name):
    ledger = Ledger(path)
    for index in range(20):
        ledger.charge(f"{name} {index}", FIRST, key=f"key {name} {index}")


def test_two_processes_do_not_interleave(ledger):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_charge_twenty, args=(ledger.path, n)) for n in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(ledger.entries()) == 40 and not ledger.torn


def test_a_ledger_exists_once_it_is_started(ledger, tmp_path):
    assert Ledger.exists(ledger.path)
    assert not Ledger.exists(tmp_path / "nothing")
