"""Who takes part in a step: as often, together and apart, as the accountant assumes."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
from dpjax_accounting import (
    DPSGDSchedule,
    FullBatch,
    ShuffledDPSGD,
)
from scipy import stats

from dpjax.privatize import PoissonSampler, RunKey, num_steps_of, sampler_for
from tests.support import mechanisms as kinds

STEPS, KEY = 10_000, RunKey.from_seed(20)
UNITS = 6
POISSON = kinds.dpsgd(UNITS, 2, 1.0, STEPS)
SCHEDULE = DPSGDSchedule(
    num_units=UNITS, segments=(kinds.segment(1, 1.0, STEPS // 2), kinds.segment(4, 1.0, STEPS // 2))
)
TRUNCATED = kinds.truncated_poisson(UNITS, 3, 1.0, STEPS, largest_batch_size=3)
FIXED = kinds.fixed_size(UNITS, 2, 1.0, STEPS)
ALLOCATION = kinds.random_allocation(UNITS, 4, 1.0, STEPS // 4)
SHUFFLED = ShuffledDPSGD(noise_multiplier=1.0, num_epochs=STEPS // 3, num_units=7, batch_size=3)
CYCLIC = kinds.banded(7, 1, 1.0, STEPS, bands=3, column_norm=1.0)


def drawn(sampler, num_units, steps=range(STEPS)):
    """Who takes part, `(steps, units)` bool."""
    found = np.zeros((len(steps), num_units), bool)
    for row, step in enumerate(steps):
        found[row, sampler.indices(step)] = True
    return found


@functools.cache
def drawn_by(mechanism, num_units=UNITS):
    steps = range(num_steps_of(mechanism))
    return drawn(sampler_for(mechanism, KEY), num_units, steps)


def require_probability(events, probability):
    """Independent events happen within 4 standard errors of `probability`, along the first axis."""
    tolerance = 4 * math.sqrt(probability * (1 - probability) / len(events))
    assert np.all(np.abs(np.mean(events, axis=0) - probability) <= tolerance + 1e-12)


def pairs(num_units):
    return itertools.combinations(range(num_units), 2)


def require_together(first, second, probability):
    """Different units, one in `first` and the other in `second`, `(trials, units)` bool."""
    for i, j in pairs(first.shape[1]):
        require_probability(first[:, i] & second[:, j], probability)
        require_probability(first[:, j] & second[:, i], probability)


def require_sizes(batches, probabilities):
    """The sizes of batches are 0, 1, 2, … with these probabilities."""
    sizes = batches.sum(axis=1)
    for size, probability in enumerate(probabilities):
        require_probability(sizes == size, probability)


def require_poisson(batches, probability):
    num_units = batches.shape[1]
    require_probability(batches, probability)
    require_together(batches, batches, probability**2)
    require_sizes(batches, stats.binom.pmf(np.arange(num_units + 1), num_units, probability))
    # One step says nothing about the next.
    require_probability(batches[:-1:2] & batches[1::2], probability**2)


def test_poisson():
    require_poisson(drawn_by(POISSON), 1 / 3)


def test_a_schedule_draws_with_the_probability_of_the_step():
    batches = drawn_by(SCHEDULE)
    require_poisson(batches[: STEPS // 2], 1 / 6)
    require_poisson(batches[STEPS // 2 :], 2 / 3)


def require_truncated(batches):
    most = TRUNCATED.largest_batch_size
    of_size = stats.binom.pmf(np.arange(UNITS + 1), UNITS, 1 / 2)
    kept = np.append(of_size[:most], of_size[most:].sum())
    require_sizes(batches, kept)
    require_probability(batches, kept @ np.arange(most + 1) / UNITS)
    both = kept @ (np.arange(most + 1) * np.arange(-1, most)) / (UNITS * (UNITS - 1))
    require_together(batches, batches, both)
    # Where the others fill a batch, a unit is in it as often as the accountant says.
    others = drawn(PoissonSampler(UNITS, 1 / 2, KEY), UNITS)[:, 1:].sum(axis=1)
    meets_a_full_batch = stats.binom.sf(most - 1, UNITS - 1, 1 / 2)
    inside = stats.binom.sf(most, UNITS, 1 / 2) * most / (UNITS * meets_a_full_batch)
    require_probability(others >= most, meets_a_full_batch)
    require_probability(batches[others >= most, 0], inside)
    require_probability(batches[others < most, 0], 1 / 2)


def test_truncated_poisson():
    require_truncated(drawn_by(TRUNCATED))


def require_fixed_size(batches):
    assert np.all(batches.sum(axis=1) == FIXED.batch_size)
    require_probability(batches, 2 / 6)
    require_together(batches, batches, 2 * 1 / (6 * 5))
    require_probability(batches[:-1:2] & batches[1::2], (2 / 6) ** 2)


def test_fixed_size_is_hypergeometric():
    require_fixed_size(drawn_by(FIXED))


def require_allocation(batches):
    epochs = batches.reshape(-1, 4, UNITS)
    assert np.all(epochs.sum(axis=1) == 1)
    for first, second in itertools.product(range(4), repeat=2):
        # Another unit is anywhere, independently.
        require_together(epochs[:, first], epochs[:, second], 1 / 16)
    for batch in range(4):
        require_probability(epochs[:, batch], 1 / 4)
        require_sizes(epochs[:, batch], stats.binom.pmf(np.arange(UNITS + 1), UNITS, 1 / 4))
        # One epoch says nothing about the next.
        require_probability(epochs[:-1:2, batch] & epochs[1::2, 0], 1 / 16)


def test_random_allocation():
    require_allocation(drawn_by(ALLOCATION))


def test_shuffled_epochs_take_every_unit_once():
    epochs = drawn_by(SHUFFLED, 7).reshape(-1, 3, 7)
    assert np.all(epochs.sum(axis=1) == 1)
    sizes = (3, 3, 1)
    assert np.all(epochs.sum(axis=2) == sizes)
    for first, size in enumerate(sizes):
        require_probability(epochs[:, first], size / 7)
        require_probability(epochs[:-1:2, first] & epochs[1::2, first], (size / 7) ** 2)
        for second, other in enumerate(sizes):
            left = other - (first == second)
            require_together(epochs[:, first], epochs[:, second], size * left / (7 * 6))


def test_cyclic_groups_take_turns():
    batches = drawn_by(CYCLIC, 7)
    turns = batches[: STEPS // 3 * 3].reshape(-1, 3, 7)
    group_of = turns.any(axis=0)
    assert np.all(group_of.sum(axis=0) == 1)
    assert sorted(group_of.sum(axis=1)) == [2, 2, 3]
    probability = CYCLIC.sampling_probability
    assert probability == 1 / 2
    for turn, members in zip(turns.swapaxes(0, 1), group_of, strict=True):
        # The larger group too is drawn with the probability of the account.
        require_poisson(turn[:, members], probability)
    # At most once in any three successive steps.
    assert np.all(sum(batches[i : STEPS - 2 + i].astype(int) for i in range(3)) <= 1)


@pytest.mark.slow
def test_groups_are_dealt_without_looking_at_the_units():
    mechanism = kinds.banded(7, 2, 1.0, 3, bands=3, column_norm=1.0)
    dealt = np.stack(
        [drawn(sampler_for(mechanism, RunKey.from_seed(seed)), 7, range(3)) for seed in range(2000)]
    )
    for group, size in enumerate((3, 2, 2)):
        require_probability(dealt[:, group], size / 7)
        require_together(dealt[:, group], dealt[:, group], size * (size - 1) / (7 * 6))


def test_the_full_batch_is_every_unit():
    mechanism = FullBatch(noise_multiplier=1.0, num_steps=9, num_units=UNITS)
    assert drawn_by(mechanism).all()


def test_most_batches_of_three_units_at_one_percent_are_empty():
    require_poisson(drawn_by(kinds.dpsgd(3, 0.03, 1.0, STEPS), 3), 0.01)


def shuffled_batches():
    mechanism = dataclasses.replace(SHUFFLED, num_units=UNITS, batch_size=2)
    return drawn(sampler_for(mechanism, KEY), UNITS)


def first_ones_kept():
    batches = drawn(PoissonSampler(UNITS, 1 / 2, KEY), UNITS)
    return batches & (np.cumsum(batches, axis=1) <= TRUNCATED.largest_batch_size)


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("require", "make"),
    [
        (lambda batches: require_poisson(batches, 1 / 3), shuffled_batches),
        (lambda batches: require_poisson(batches, 1 / 3), lambda: drawn_by(FIXED)),
        (lambda batches: require_poisson(batches, 1 / 2), lambda: drawn_by(TRUNCATED)),
        (require_fixed_size, shuffled_batches),
        (require_truncated, first_ones_kept),
        (require_allocation, lambda: drawn_by(kinds.dpsgd(UNITS, 1.5, 1.0, STEPS))),
        (
            require_allocation,
            lambda: drawn(sampler_for(ALLOCATION, KEY), UNITS, range(4)).repeat(2500, axis=0),
        ),
    ],
    ids=[
        "shuffled for Poisson",
        "fixed size for Poisson",
        "truncated for Poisson",
        "shuffled for fixed size",
        "the first ones kept",
        "Poisson for allocation",
        "one epoch for all",
    ],
)
def test_another_way_of_sampling_is_noticed(require, make):
    with pytest.raises(AssertionError):
        require(make())
