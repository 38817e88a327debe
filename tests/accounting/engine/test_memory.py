"""The memory that an answer takes: bounded whatever the steps, and nearly so in the segments."""

from __future__ import annotations

import tracemalloc

import pytest
from dpjax_accounting import DPSGDSchedule
from dpjax_accounting.engine.one_step_grid import discretise
from dpjax_accounting.engine.pairs import _table
from dpjax_accounting.engine.privacy_loss import privacy_loss

from tests.support.mechanisms import dpsgd, segment

MIB = 2**20


def peak(mechanism, delta=1e-6):
    """The most that one answer holds at a time, in bytes, with nothing left from earlier ones."""
    dpsgd(10, 1, 1.0, 1).epsilon(0.01)  # What is imported when it is needed.
    for remembered in (discretise, privacy_loss, _table):
        remembered.cache_clear()
    tracemalloc.start()
    try:
        mechanism.epsilon(delta)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("noise", [2.0, 8.0])
def test_memory_grows_as_the_root_of_the_steps(noise):
    # The range of losses does; in the steps themselves it would be ten times as much.
    fewer, more = (peak(dpsgd(10**6, 1000, noise, steps)) for steps in (10**5, 10**6))
    assert more < 64 * MIB
    assert more < 4 * fewer


def test_the_finest_grid_takes_half_a_gigabyte_at_most():
    # Small sampling probabilities ask for the finest grids; this one is cut to the most points.
    assert 256 * MIB < peak(dpsgd(10**9, 10**4, 0.7, 10**6), 1e-8) < 512 * MIB


@pytest.mark.slow
def test_segments_share_the_memory_of_one():
    def schedule(count):
        segments = tuple(segment(1000, 4 + i / count, 100) for i in range(count))
        return DPSGDSchedule(num_units=10**6, segments=segments)

    few, many = peak(schedule(5)), peak(schedule(65))
    assert many < few + 60 * MIB / 8
