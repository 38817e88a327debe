"""One mechanism decides the sampler: its draws, who may be absent, and what is refused."""

import numpy as np
import pytest
from dpjax_accounting import (
    DPSGD,
    BestOfRuns,
    Composition,
    DPSGDSchedule,
    FullBatch,
    GroupOfRecords,
    ShuffledDPSGD,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax.privatize import PoissonSampler, RunKey, num_steps_of, sampler_for
from tests.support import mechanisms as kinds

UNITS = 11
# With the number of steps in which a unit adds one contribution at most, by the account.
MECHANISMS = {
    "poisson": (kinds.dpsgd(UNITS, 4, 1.0, 12), 1),
    "schedule": (
        DPSGDSchedule(
            num_units=UNITS, segments=(kinds.segment(2, 1.0, 5), kinds.segment(9, 2.0, 7))
        ),
        1,
    ),
    "truncated": (kinds.truncated_poisson(UNITS, 5, 1.0, 12, largest_batch_size=4), 1),
    "fixed size": (kinds.fixed_size(UNITS, 4, 1.0, 12), 1),
    "allocation": (kinds.random_allocation(UNITS, 4, 1.0, 3), 4),
    "shuffled": (
        ShuffledDPSGD(noise_multiplier=1.0, num_epochs=4, num_units=UNITS, batch_size=4),
        3,
    ),
    "cyclic": (kinds.banded(UNITS, 2, 1.0, 12, bands=3, column_norm=1.0), 3),
    "full": (FullBatch(noise_multiplier=1.0, num_steps=12, num_units=UNITS), 1),
    "user level": (kinds.user_level(UNITS, 4, 1.0, 12, records_per_user=1), 1),
    "laplace": (kinds.laplace(UNITS, 4, 1.0, 12), 1),
    "adaptive": (kinds.adaptive_clipping(UNITS, 4, 1.0, 12, count_stddev=2.0), 1),
}
ALONE = ("poisson", "schedule", "allocation", "full", "user level", "laplace", "adaptive")
EVERY = pytest.mark.parametrize("name", MECHANISMS)


@EVERY
def test_draws_are_a_pure_function_of_key_and_step(name):
    mechanism, _ = MECHANISMS[name]
    assert num_steps_of(mechanism) == 12
    sampler = sampler_for(mechanism, RunKey.from_seed(1))
    in_order = [sampler.indices(step) for step in range(12)]
    again = sampler_for(mechanism, RunKey.from_seed(1))
    for step in (7, 0, 11, 3, 3, 8, 1):
        indices = again.indices(step)
        assert indices.dtype == np.int64
        assert np.array_equal(indices, in_order[step])
        assert np.all(np.diff(indices) > 0)
    if name != "full":
        other = sampler_for(mechanism, RunKey.from_seed(2))
        assert any(not np.array_equal(other.indices(s), in_order[s]) for s in range(12))
        assert any(not np.array_equal(in_order[0], drawn) for drawn in in_order)
    assert RunKey.from_seed(1).secret.hex() not in repr(sampler)


@pytest.mark.parametrize("name", ["poisson", "user level", "laplace", "adaptive"])
def test_poisson_draws_are_those_of_the_poisson_sampler(name):
    key = RunKey.from_seed(8)
    present = np.arange(15) % 4 > 0
    for who in (None, present):
        expected = PoissonSampler.for_mechanism(MECHANISMS["poisson"][0], key, who)
        sampler = sampler_for(MECHANISMS[name][0], key, who)
        assert isinstance(sampler, PoissonSampler)
        assert all(np.array_equal(sampler.indices(s), expected.indices(s)) for s in range(12))


@pytest.mark.parametrize("name", ALONE)
def test_who_is_absent_changes_no_other_draw(name):
    mechanism, key = MECHANISMS[name][0], RunKey.from_seed(3)
    present = np.arange(15) % 3 > 0
    whole = sampler_for(mechanism, key, np.ones(15, bool))
    partial = sampler_for(mechanism, key, present)
    for step in range(12):
        drawn = whole.indices(step)
        assert np.array_equal(partial.indices(step), drawn[present[drawn]])
    with pytest.raises(ValueError, match="present must have one axis"):
        sampler_for(mechanism, key, np.ones((2, 2), bool))
    with pytest.raises(TypeError, match="present must hold truth values"):
        sampler_for(mechanism, key, np.ones(11))


@pytest.mark.parametrize("name", sorted(MECHANISMS.keys() - set(ALONE)))
def test_all_units_are_present_where_they_are_drawn_together(name):
    with pytest.raises(ValueError, match=r"present must be left out for .*: .*contributes nothing"):
        sampler_for(MECHANISMS[name][0], RunKey.from_seed(3), np.ones(UNITS, bool))


@EVERY
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), unit=st.integers(0, UNITS - 1))
def test_a_unit_moves_the_sums_by_at_most_the_clip_norm(name, seed, unit):
    """In every step; over an epoch or a turn of all groups together, where the account says so."""
    mechanism, block = MECHANISMS[name]
    rng = np.random.default_rng(seed)
    contributions = rng.normal(size=(UNITS, 3))
    contributions /= np.linalg.norm(contributions, axis=1, keepdims=True)
    contributions *= rng.choice([0.3, 1.0], size=(UNITS, 1))

    def sums(sampler, contributions):
        return np.stack([contributions[sampler.indices(step)].sum(axis=0) for step in range(12)])

    key = RunKey.from_seed(seed)
    whole = sums(sampler_for(mechanism, key), contributions)
    zeroed = np.where(np.arange(UNITS)[:, None] == unit, 0.0, contributions)
    others = [sums(sampler_for(mechanism, key), zeroed)]
    if name in ALONE:
        present = np.arange(UNITS) != unit
        others.append(sums(sampler_for(mechanism, key, present), contributions))
    for sums_without in others:
        moved = np.linalg.norm((whole - sums_without).reshape(12 // block, -1), axis=1)
        assert np.all(moved <= 1 + 1e-9)


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (Composition((kinds.dpsgd(9, 3, 1.0, 2),)), "got Composition: it describes several runs"),
        (BestOfRuns(kinds.dpsgd(9, 3, 1.0, 2), mean_runs=2.0), "got BestOfRuns.*with its `run`"),
        (
            GroupOfRecords(kinds.dpsgd(9, 3, 1.0, 2), records_per_user=2),
            "GroupOfRecords.*with its `run`",
        ),
        (None, "how batches are drawn, got NoneType"),
        ("dpsgd", "how batches are drawn, got str"),
    ],
)
def test_what_describes_no_run_is_refused(mechanism, message):
    for use in (
        lambda: sampler_for(mechanism, RunKey.from_seed(0)),
        lambda: num_steps_of(mechanism),
        lambda: dpjax.private_gradient(
            lambda p, x: p @ x, mechanism=mechanism, clip_norm=1.0, run_key=RunKey.from_seed(0)
        ),
    ):
        with pytest.raises(TypeError, match=message):
            use()


@pytest.mark.parametrize(
    ("mechanism", "field"),
    [
        (FullBatch(noise_multiplier=1.0, num_steps=3), "num_units of FullBatch"),
        (ShuffledDPSGD(noise_multiplier=1.0, num_epochs=3), "num_units of ShuffledDPSGD"),
        (
            ShuffledDPSGD(noise_multiplier=1.0, num_epochs=3, num_units=9),
            "batch_size of ShuffledDPSGD",
        ),
    ],
)
def test_a_run_needs_numbers_that_its_account_does_not(mechanism, field):
    with pytest.raises(ValueError, match=f"{field} must be given for a run"):
        sampler_for(mechanism, RunKey.from_seed(0))


def test_a_schedule_ends():
    sampler = sampler_for(MECHANISMS["schedule"][0], RunKey.from_seed(0))
    with pytest.raises(ValueError, match="step must be below num_steps=12; got 12"):
        sampler.indices(12)


def test_streams_of_different_purposes_differ():
    key = RunKey.from_seed(5)
    streams = [
        key.sampling_rng(0),
        key.sampling_rng(1),
        *(key.epoch_rng(name, e) for name in ("shuffle", "allocation") for e in (0, 1)),
    ]
    assert len({stream.random() for stream in streams}) == len(streams)
    assert key.epoch_rng("shuffle", 1).random() == key.epoch_rng("shuffle", 1).random()


def test_every_kind_of_run_is_here():
    kinds = {type(mechanism) for mechanism, _ in MECHANISMS.values()}
    assert DPSGD in kinds and len(kinds) == len(MECHANISMS)
