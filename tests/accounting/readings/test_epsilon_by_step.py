"""ε after each step of a run."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from dpjax_accounting import (
    Composition,
    DPSGDSchedule,
    EpsilonBySteps,
    ShuffledDPSGD,
)
from dpjax_accounting.mechanisms.stepwise import stopped_after
from dpjax_accounting.report.pictures import epsilon_picture

from tests.support.mechanisms import (
    adaptive_clipping,
    banded,
    check_bad_steps_are_refused,
    dpsgd,
    fixed_size,
    full_batch,
    random_allocation,
    segment,
    truncated_poisson,
    user_level,
)

MECHANISM = dpsgd(1000, 100, 6.0, 40)


def test_every_step_of_a_short_run_is_bounded_tightly():
    spent = EpsilonBySteps(MECHANISM, 1e-5)
    values = [spent.at(step) for step in range(41)]
    assert values[0] == 0.0
    assert np.all(np.diff(values) > 0)
    for step in (1, 2, 17, 39):
        exact = MECHANISM.after(step).epsilon(1e-5)
        assert exact <= values[step] <= 1.02 * exact
    assert values[40] == MECHANISM.epsilon(1e-5)


def test_long_runs_round_steps_up_to_a_grid():
    spent = EpsilonBySteps(MECHANISM, 1e-5, max_points=7)
    every = EpsilonBySteps(MECHANISM, 1e-5)
    values = [spent.at(step) for step in range(41)]
    assert len(set(values)) == 8
    assert np.all(np.diff(values) >= 0)
    assert all(values[step] >= every.at(step) for step in range(41))
    assert values[40] == MECHANISM.epsilon(1e-5)
    # Points are at most ceil(40 × (1 − (6/7)²)) = 11 steps apart.
    assert all(values[step] <= every.at(min(40, step + 10)) for step in range(1, 41))
    # As evenly spaced in ε as the root of the steps is.
    assert np.diff(sorted(set(values))).max() < 1.5 * values[40] / 7


@pytest.mark.parametrize("mechanism", [dpsgd(10**5, 10, 1.0, 3000), dpsgd(1000, 100, 0.6, 9)])
def test_no_step_shows_more_than_the_whole_run(mechanism):
    spent = EpsilonBySteps(mechanism, 1e-6)
    assert spent.at(mechanism.num_steps - 1) <= spent.at(mechanism.num_steps)


def test_one_point_is_the_final_epsilon_throughout():
    spent = EpsilonBySteps(MECHANISM, 1e-5, max_points=1)
    assert [spent.at(step) for step in (0, 1, 40)] == [0.0] + [MECHANISM.epsilon(1e-5)] * 2


@pytest.mark.parametrize("num_steps", [63, 64, 65, 1000, 100_000])
def test_grid_ends_with_the_last_step(num_steps):
    spent = EpsilonBySteps(dpsgd(10**6, 100, 30.0, num_steps), 1e-5)
    assert spent.at(num_steps) == dpsgd(10**6, 100, 30.0, num_steps).epsilon(1e-5)
    assert spent.at(1) <= spent.at(num_steps)


def test_values_are_computed_once(monkeypatch):
    computed = []
    compute = EpsilonBySteps._bound
    monkeypatch.setattr(
        EpsilonBySteps, "_bound", lambda self, step: computed.append(step) or compute(self, step)
    )
    spent = EpsilonBySteps(MECHANISM, 1e-5, max_points=2)
    for step in range(41):
        spent.at(step)
    assert computed == [10, 40]


def test_every_step_of_a_long_run_in_one_pass():
    run = dpsgd(10**6, 1000, 8.0, 100_000)
    start = time.process_time()
    spent = EpsilonBySteps(run, 1e-6)
    values = np.array([spent.at(step) for step in range(100_001)])
    # A second; the rest is for machines that are slow.
    assert time.process_time() - start < 10
    assert len(set(values)) <= 65
    assert values[0] == 0
    assert np.all(np.diff(values) >= 0)
    assert values.max() == values[-1] == run.epsilon(1e-6)
    assert np.diff(values).max() < 0.05 * values[-1]


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    "mechanism",
    [
        full_batch(12.0, 40),
        DPSGDSchedule(num_units=1000, segments=(segment(100, 6.0, 15), segment(50, 8.0, 25))),
        truncated_poisson(1000, 100, 6.0, 40, largest_batch_size=140),
        fixed_size(1000, 100, 12.0, 40),
        banded(1000, 100, 6.0, 40, bands=4, column_norm=1.2),
        adaptive_clipping(1000, 100, 6.0, 40, count_stddev=10.0),
        user_level(1000, 100, 8.0, 40, records_per_user=3),
    ],
    ids=lambda mechanism: mechanism.name,
)
def test_every_mechanism_in_steps_has_it(mechanism):
    spent = EpsilonBySteps(mechanism, 1e-5)
    values = [spent.at(step) for step in range(41)]
    assert values[0] == 0.0 and values[40] == mechanism.epsilon(1e-5)
    assert np.all(np.diff(values) >= 0) and values[1] < 0.6 * values[40]
    for step in (1, 15, 16, 39):
        exact = mechanism.after(step).epsilon(1e-5)
        assert exact <= values[step] <= 1.02 * exact
    assert epsilon_picture(mechanism, 1e-5, 20).startswith(b"\x89PNG")


def test_a_schedule_stops_in_its_segments():
    first, second = segment(100, 6.0, 15), segment(50, 8.0, 25)
    schedule = DPSGDSchedule(num_units=1000, segments=(first, second))
    assert schedule.after(40) == schedule
    assert schedule.after(15) == DPSGDSchedule(num_units=1000, segments=(first,))
    assert schedule.after(16) == DPSGDSchedule(
        num_units=1000, segments=(first, segment(50, 8.0, 1))
    )
    assert schedule.after(3).epsilon(1e-5) == dpsgd(1000, 100, 6.0, 3).epsilon(1e-5)
    nothing = schedule.after(0)
    assert (nothing.num_steps, nothing.epsilon(1e-5), nothing.rdp_epsilon(1e-5)) == (0, 0.0, 0.0)
    with pytest.raises(ValueError, match="step=41 lies beyond the last one: num_steps=40"):
        schedule.after(41)


@pytest.mark.parametrize(
    "mechanism",
    [
        ShuffledDPSGD(noise_multiplier=8.0, num_epochs=3),
        Composition((MECHANISM, MECHANISM)),
    ],
)
def test_what_has_no_steps_is_refused_in_words(mechanism):
    with pytest.raises(TypeError, match="which has one epsilon for the whole of it"):
        EpsilonBySteps(mechanism, 1e-5)
    with pytest.raises(ValueError, match="has no steps: it counts in full"):
        stopped_after(mechanism, 1)


@pytest.mark.parametrize(
    "mechanism",
    [
        ShuffledDPSGD(noise_multiplier=8.0, num_epochs=3, num_units=1000, batch_size=300),
        random_allocation(1000, 4, 8.0, 3),
    ],
    ids=lambda mechanism: mechanism.name,
)
def test_an_epoch_that_was_begun_counts_as_a_whole_one(mechanism):
    assert mechanism.num_steps == 12
    spent = EpsilonBySteps(mechanism, 1e-5)
    of_epochs = [dataclasses.replace(mechanism, num_epochs=e).epsilon(1e-5) for e in range(4)]
    for step in range(13):
        begun = -(-step // 4)
        assert mechanism.after(step) == dataclasses.replace(mechanism, num_epochs=begun)
        assert stopped_after(mechanism, step).epsilon(1e-5) == of_epochs[begun]
        # What a progress display shows may be coarser, and never less.
        assert of_epochs[begun] <= spent.at(step) <= min(1.03 * of_epochs[begun], of_epochs[3])
    check_bad_steps_are_refused(mechanism.after, num_steps=12)
    check_bad_steps_are_refused(spent.at, num_steps=12)


def test_of_many_epochs_some_are_computed():
    epochs = ShuffledDPSGD(noise_multiplier=20.0, num_epochs=100, num_units=30, batch_size=10)
    spent = EpsilonBySteps(epochs, 1e-5, max_points=10)
    values = [spent.at(step) for step in range(301)]
    assert len(set(values)) == 11 and np.all(np.diff(values) >= 0)
    assert all(values[step] >= epochs.after(step).epsilon(1e-5) for step in range(0, 301, 7))


def test_no_steps():
    assert EpsilonBySteps(dpsgd(1000, 100, 0.01, 0), 1e-5).at(0) == 0.0


def test_refusals():
    with pytest.raises(TypeError, match="one in steps, such as DPSGD; got dict"):
        EpsilonBySteps(MECHANISM.to_dict(), 1e-5)
    with pytest.raises(ValueError, match="delta must lie strictly between"):
        EpsilonBySteps(MECHANISM, 1.0)
    with pytest.raises(ValueError, match="smallest supported delta"):
        EpsilonBySteps(MECHANISM, 1e-26)
    with pytest.raises(ValueError, match=r"below 0\.1 are not accounted for"):
        EpsilonBySteps(dpsgd(1000, 100, 0.01, 10), 1e-5)
    with pytest.raises(ValueError, match="max_points must be at least 1"):
        EpsilonBySteps(MECHANISM, 1e-5, max_points=0)
    check_bad_steps_are_refused(EpsilonBySteps(MECHANISM, 1e-5).at, num_steps=40)
