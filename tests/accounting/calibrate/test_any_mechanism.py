"""The noise for a target ε, whatever the way of sampling."""

from __future__ import annotations

import dataclasses

import pytest
from dpjax_accounting import (
    Composition,
    DeltaWarning,
    DPSGDSchedule,
    ShuffledDPSGD,
    calibrate_noise,
    calibrate_noise_of,
)

from tests.support import mechanisms as kinds

EPOCHS = ShuffledDPSGD(noise_multiplier=1.0, num_epochs=3, num_units=1000, batch_size=64)
MECHANISMS = {
    "poisson": kinds.dpsgd(1000, 64, 1.0, 40),
    "poisson, replaced": kinds.dpsgd(1000, 64, 1.0, 40, neighboring="replace_one"),
    "truncated poisson": kinds.truncated_poisson(1000, 64, 1.0, 40, largest_batch_size=80),
    "fixed size": kinds.fixed_size(1000, 64, 1.0, 40),
    "fixed size, zeroed": kinds.fixed_size(1000, 64, 1.0, 40, neighboring="zero_out"),
    "shuffled": EPOCHS,
    "full batch": kinds.full_batch(1.0, 3),
    "users": kinds.user_level(1000, 64, 1.0, 40, records_per_user=3),
    "banded": kinds.banded(1000, 64, 1.0, 40, bands=2, column_norm=1.5),
}


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("target", [0.7, 4.0])
def test_the_target_is_met_from_below_by_hardly_more_noise_than_needed(name, target):
    found = calibrate_noise_of(MECHANISMS[name], target, 1e-5)
    assert 0.999 * target <= found.epsilon(1e-5) <= target
    noise = found.noise_multiplier
    assert found == dataclasses.replace(MECHANISMS[name], noise_multiplier=noise)
    assert dataclasses.replace(found, noise_multiplier=0.997 * noise).epsilon(1e-5) > target


def test_random_allocation_is_met_within_three_percent():
    found = calibrate_noise_of(kinds.random_allocation(1000, 8, 1.0, 2), 2.0, 1e-5)
    assert 0.97 * 2 <= found.epsilon(1e-5) <= 2
    # Only one batch an epoch is no sampling.
    whole = calibrate_noise_of(kinds.random_allocation(1000, 1, 1.0, 2), 2.0, 1e-5)
    assert 0.97 * 2 <= kinds.full_batch(whole.noise_multiplier, 2).epsilon(1e-5) <= 2


def test_poisson_batches_get_the_noise_that_they_always_had():
    numbers = {"num_units": 6920, "expected_batch_size": 512, "num_steps": 68}
    mechanism = kinds.dpsgd(6920, 512, 5.0, 68)
    assert calibrate_noise_of(mechanism, 3.0, 1e-5) == calibrate_noise(3.0, 1e-5, **numbers)


def test_the_noise_that_is_given_does_not_matter():
    little = dataclasses.replace(EPOCHS, noise_multiplier=1e-9)
    assert calibrate_noise_of(little, 2.0, 1e-5) == calibrate_noise_of(EPOCHS, 2.0, 1e-5)


def test_a_schedule_gets_one_noise_multiplier_for_all_its_segments():
    parts = (kinds.segment(200, 1.0, 30), kinds.segment(64, 1.0, 40))
    found = calibrate_noise_of(DPSGDSchedule(num_units=1000, segments=parts), 3.0, 1e-5)
    assert 0.999 * 3 <= found.epsilon(1e-5) <= 3
    (noise,) = {part.noise_multiplier for part in found.segments}
    assert found.segments == tuple(
        dataclasses.replace(part, noise_multiplier=noise) for part in parts
    )
    # Segments of one size are as steps of one kind.
    halves = (kinds.segment(64, 1.0, 15), kinds.segment(64, 1.0, 25))
    split = calibrate_noise_of(DPSGDSchedule(num_units=1000, segments=halves), 3.0, 1e-5)
    whole = calibrate_noise_of(MECHANISMS["poisson"], 3.0, 1e-5)
    assert split.segments[1].noise_multiplier == pytest.approx(whole.noise_multiplier, rel=1e-3)


SCHEDULE = DPSGDSchedule(
    num_units=1000, segments=(kinds.segment(64, 1.0, 40), kinds.segment(64, 2.0, 40))
)


@pytest.mark.parametrize(
    ("mechanism", "target", "error", "words"),
    [
        (SCHEDULE, 1.0, TypeError, "one noise multiplier, .* got DPSGDSchedule"),
        (Composition((SCHEDULE,)), 1.0, TypeError, "got Composition"),
        (kinds.adaptive_clipping(9, 1, 1.0, 9, count_stddev=2.0), 1.0, TypeError, "got Adaptive"),
        (MECHANISMS["poisson"].to_dict(), 1.0, TypeError, "got dict"),
        (EPOCHS, 0.0, ValueError, "target_epsilon must be greater than 0"),
        (EPOCHS, 101.0, ValueError, "above 100"),
        (dataclasses.replace(EPOCHS, num_epochs=0), 1.0, ValueError, "without steps releases no"),
        (kinds.full_batch(1.0, 0), 1.0, ValueError, "FullBatch without steps releases nothing"),
    ],
)
def test_refusals(mechanism, target, error, words):
    with pytest.raises(error, match=words):
        calibrate_noise_of(mechanism, target, 1e-5)


def test_a_delta_that_reveals_whole_records_is_warned_about():
    with pytest.warns(DeltaWarning):
        calibrate_noise_of(EPOCHS, 2.0, 0.01)
