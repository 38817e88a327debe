"""Steps are on record before they are done, and not many more than are."""

import errno

import pytest

from dpjax.training.fitting.stored.record import StepRecord


def make(writes, **changes):
    options = {"first": 0, "num_steps": 1000, "on_record": 0, "seconds": None, "steps": 50}
    return StepRecord(lambda steps, done: writes.append((steps, done)), **options | changes)


def test_every_step_is_covered_by_few_writes():
    writes = []
    record = make(writes)
    for step in range(1, 1001):
        record.cover(step)
        assert step <= record.on_record == writes[-1][0] and writes[-1][1] < step
        assert record.on_record - step < 8 * step and record.on_record - step <= 100
    assert len(writes) < 20
    # The record looks complete only once the last step is about to be done.
    assert [steps for steps, _ in writes][-2:] == [999, 1000]


def test_a_checkpoint_looks_ahead_and_no_write_takes_steps_back():
    writes = []
    record = make(writes, steps=10)
    for step in range(1, 41):
        record.cover(step)
    record.renew(40)
    assert record.on_record > 40
    before = len(writes)
    record.renew(40)
    assert len(writes) == before
    record = make(writes, first=3, on_record=9)
    for step in range(4, 10):
        record.cover(step)
    assert len(writes) == before
    record.cover(10)
    assert writes[-1] == (57, 9)


def test_the_rate_of_steps_bounds_the_record(monkeypatch):
    writes, now = [], [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    record = make(writes, seconds=10.0, steps=None)
    for step in range(1, 100):
        record.cover(step)
        now[0] += 1.0
        assert record.on_record - step <= 15


def test_what_could_not_be_written_is_not_on_record():
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    record = StepRecord(full, first=0, num_steps=9, on_record=2, seconds=None, steps=None)
    record.cover(2)
    with pytest.raises(OSError, match="No space"):
        record.cover(3)
    assert record.on_record == 2
