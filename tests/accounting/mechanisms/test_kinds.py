"""Every kind of mechanism: round trips, relations, known values, and the traps of each."""

from __future__ import annotations

import dataclasses
import json
import math

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from dpjax_accounting import (
    BestOfRuns,
    Composition,
    DPSGDSchedule,
    GroupOfRecords,
    NoRenyiDivergence,
    ShuffledDPSGD,
    UserSampledAdaptiveClippingDPSGD,
    UserSampledDPSGD,
    UserSampledFixedSizeDPSGD,
    UserSampledFullBatch,
    UserSampledRandomAllocationDPSGD,
    UserSampledShuffledDPSGD,
    UserSampledTruncatedPoissonDPSGD,
    compare,
    mechanism_from_dict,
)
from dpjax_accounting.mechanisms.best_of_runs import _negative_binomial

from tests.support.mechanisms import (
    adaptive_clipping,
    banded,
    dpsgd,
    fixed_size,
    full_batch,
    laplace,
    random_allocation,
    segment,
    truncated_poisson,
    user_level,
    user_sampled,
    user_sampled_fixed_size,
    user_sampled_full_batch,
    user_sampled_truncated_poisson,
)

SST2 = dpsgd(67349, 1024, 1.0, 198)
KINDS = [
    (SST2, {"add_or_remove_one", "replace_one", "zero_out"}),
    (
        DPSGDSchedule(num_units=1000, segments=(segment(100, 3.0, 20), segment(200, 4.0, 10))),
        {"add_or_remove_one", "replace_one", "zero_out"},
    ),
    (full_batch(20.0, 100), {"add_or_remove_one", "replace_one", "zero_out"}),
    (
        ShuffledDPSGD(noise_multiplier=4.0, num_epochs=3, num_units=1000, batch_size=30),
        {"replace_one", "zero_out"},
    ),
    (
        truncated_poisson(1000, 30, 3.0, 20, largest_batch_size=60),
        {"replace_one", "zero_out"},
    ),
    (
        fixed_size(1000, 30, 4.0, 20),
        {"replace_one", "zero_out"},
    ),
    (
        banded(1000, 30, 3.0, 20, bands=4, column_norm=1.0),
        {"replace_one", "zero_out"},
    ),
    (
        user_level(1000, 30, 3.0, 20, records_per_user=3),
        {"add_or_remove_one", "replace_one", "zero_out"},
    ),
    (
        user_sampled(1000, 30, 3.0, 20, records_per_user=3),
        {"add_or_remove_one", "replace_one", "zero_out"},
    ),
    (
        user_sampled_truncated_poisson(
            1000, 30, 3.0, 20, largest_batch_size=60, records_per_user=3
        ),
        {"replace_one", "zero_out"},
    ),
    (user_sampled_fixed_size(1000, 30, 9.0, 20, records_per_user=3), {"replace_one", "zero_out"}),
    (
        UserSampledShuffledDPSGD(noise_multiplier=4.0, num_epochs=3, records_per_user=3),
        {"replace_one", "zero_out"},
    ),
    (
        user_sampled_full_batch(9.0, 5, records_per_user=3),
        {"add_or_remove_one", "replace_one", "zero_out"},
    ),
    (
        adaptive_clipping(1000, 30, 3.0, 20, count_stddev=5.0),
        {"add_or_remove_one"},
    ),
    (laplace(1000, 30, 2.0, 20), {"add_or_remove_one", "zero_out"}),
]
WRAPPERS = [
    BestOfRuns(SST2, mean_runs=5.0),
    GroupOfRecords(dpsgd(1000, 10, 4.0, 20), records_per_user=3),
    Composition((SST2, full_batch(9.0, 1))),
]


@pytest.mark.parametrize(
    "mechanism", [kind for kind, _ in KINDS] + WRAPPERS, ids=lambda kind: kind.name
)
def test_every_kind_answers_and_survives_json(mechanism):
    again = mechanism_from_dict(json.loads(json.dumps(mechanism.to_dict(), allow_nan=False)))
    assert again == mechanism
    assert hash(again) == hash(mechanism)
    assert mechanism.unit in ("record", "user")
    epsilon = mechanism.epsilon(1e-5)
    assert epsilon > 0
    assert mechanism.delta(epsilon) == pytest.approx(1e-5, rel=1e-2)
    assert mechanism.epsilon(1e-8) > epsilon


@pytest.mark.parametrize(
    ("mechanism", "relations"), KINDS, ids=[mechanism.name for mechanism, _ in KINDS]
)
def test_relations_are_supported_or_refused_with_the_reason(mechanism, relations):
    for relation in ("add_or_remove_one", "replace_one", "zero_out"):
        fields = {**mechanism.to_dict(), "neighboring": relation}
        if relation in relations:
            assert mechanism_from_dict(fields).neighboring == relation
        else:
            with pytest.raises(ValueError, match=f"neighboring='{relation}' is not supported: "):
                mechanism_from_dict(fields)
    with pytest.raises(ValueError, match=r"is not known\. Did you mean"):
        mechanism_from_dict({**mechanism.to_dict(), "neighboring": sorted(relations)[0][:-1]})


@pytest.mark.parametrize("mechanism", [kind for kind, _ in KINDS], ids=lambda kind: kind.name)
def test_units_are_not_exchangeable(mechanism):
    other = {"record": "user", "user": "record"}[mechanism.unit]
    with pytest.raises(ValueError, match=f"unit='{other}' is not"):
        mechanism_from_dict({**mechanism.to_dict(), "unit": other})


def test_nothing_released_is_free():
    for mechanism in (
        dpsgd(10, 1, 1.0, 0),
        full_batch(1.0, 0),
        ShuffledDPSGD(noise_multiplier=1.0, num_epochs=0),
        truncated_poisson(10, 1, 1.0, 0, largest_batch_size=2),
        fixed_size(10, 1, 1.0, 0),
        banded(10, 1, 1.0, 0, bands=2, column_norm=1.0),
        user_level(10, 1, 1.0, 0, records_per_user=2),
        adaptive_clipping(10, 1, 1.0, 0, count_stddev=5.0),
    ):
        assert mechanism.epsilon(1e-5) == mechanism.rdp_epsilon(1e-5) == 0.0
        assert mechanism.delta(0.0) == 0.0


def test_replace_one_means_the_same_to_both_accountants():
    # dp-accounting's two do not agree: 9.997 and 4.729 for the same event.
    event = dp_accounting.GaussianDpEvent(1.0)
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    theirs = pld.PLDAccountant(neighboring_relation=relation).compose(event).get_epsilon(1e-5)
    undoubled = rdp.RdpAccountant(neighboring_relation=relation).compose(event).get_epsilon(1e-5)
    both = compare(full_batch(1.0, 1, neighboring="replace_one"), 1e-5)
    assert both.pld == pytest.approx(theirs, rel=1e-6)
    assert undoubled < 0.5 * both.pld
    assert both.pld < both.rdp < 1.1 * both.pld


def test_replace_one_under_poisson_sampling():
    mechanism = dpsgd(67349, 1024, 1.0, 198, neighboring="replace_one")
    event = dp_accounting.PoissonSampledDpEvent(1024 / 67349, dp_accounting.GaussianDpEvent(1.0))
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    theirs = pld.PLDAccountant(neighboring_relation=relation).compose(event, 198)
    assert mechanism.epsilon(7.424e-6) == pytest.approx(theirs.get_epsilon(7.424e-6), rel=1e-4)


@pytest.mark.parametrize(
    ("bands", "exact"),
    # By the inverse Laplace transform of the moments, as in test_window.py.
    [
        (1, 4.591328707935135),
        (4, 9.85400756352973),
        (16, 19.900434002714157),
        (122, 39.375233432678),
    ],
)
def test_banded_noise(bands, exact):
    mechanism = banded(10**6, 8192, 0.8, 2000, bands=bands, column_norm=1.0)
    assert exact < mechanism.epsilon(1e-7) < exact * (1 + 1e-5)
    scaled = banded(10**6, 8192, 1.6, 2000, bands=bands, column_norm=2.0)
    assert scaled.epsilon(1e-7) == mechanism.epsilon(1e-7)


def test_banded_groups_must_hold_a_batch():
    with pytest.raises(ValueError, match="larger than a group, which has num_units / bands = 250"):
        banded(1000, 300, 1.0, 10, bands=4, column_norm=1.0)


@pytest.mark.parametrize("mean", [1 + 1e-15, 1 + 1e-13, 1 + 1e-9, 1.5, 100.0, 1e10, 1e100, 1e300])
def test_logarithmic_numbers_of_runs_have_their_mean(mean):
    _, gamma = _negative_binomial("logarithmic", mean)
    assert 0 < gamma < 1
    # (1/γ − 1) / log(1/γ), where it can be computed so.
    if mean > 1 + 1e-6:
        assert (1 / gamma - 1) / -math.log(gamma) == pytest.approx(mean, rel=1e-9)
    else:
        assert 1 - gamma == pytest.approx(2 * (mean - 1), rel=1e-2, abs=3e-16)


@pytest.mark.parametrize(
    ("distribution", "mean", "expected"),
    [
        ("logarithmic", 5, 2.751506473909453),
        ("logarithmic", 100, 3.7651627052541388),
        ("geometric", 20, 3.7536164038126962),
        ("poisson", 5, 2.627405239900528),
        ("poisson", 100, 10.986179689800363),
    ],
)
def test_best_of_runs_agrees_with_dp_accounting(distribution, mean, expected):
    epsilon = BestOfRuns(SST2, mean_runs=mean, distribution=distribution).epsilon(7.424e-6)
    assert epsilon == pytest.approx(expected, rel=5e-3)
    assert epsilon > SST2.rdp_epsilon(7.424e-6)


def test_a_fixed_number_of_runs_is_a_composition():
    with pytest.raises(ValueError, match="describe it as a Composition"):
        BestOfRuns(SST2, mean_runs=5, distribution="fixed")


def test_shuffled_epochs_claim_no_amplification():
    shuffled = ShuffledDPSGD(noise_multiplier=1.0, num_epochs=3)
    assert shuffled.epsilon(1e-5) == full_batch(1.0, 3).epsilon(1e-5)
    assert shuffled.epsilon(1e-5) > 5 * SST2.epsilon(1e-5)


@pytest.mark.parametrize(
    ("plain", "sizes"),
    [
        (ShuffledDPSGD(noise_multiplier=4.0, num_epochs=3), {"num_units": 9, "batch_size": 4}),
        (full_batch(4.0, 3), {"num_units": 9}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_sizes_of_a_run_change_no_epsilon(plain, sizes):
    described = dataclasses.replace(plain, **sizes)
    assert described.epsilon(1e-5) == plain.epsilon(1e-5)
    # A description from before there were such fields is read as it was written.
    assert not sizes.keys() & plain.to_dict().keys()
    assert described.to_dict() == plain.to_dict() | sizes
    for mechanism in (plain, described):
        assert mechanism_from_dict(json.loads(json.dumps(mechanism.to_dict()))) == mechanism
    for name in sizes:
        with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
            dataclasses.replace(plain, **{name: 0})
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            dataclasses.replace(plain, **{name: 2.5})


def test_a_shuffled_batch_has_no_more_units_than_the_data():
    with pytest.raises(ValueError, match=r"batch_size=10 is larger than the data.*num_units=9"):
        ShuffledDPSGD(noise_multiplier=4.0, num_epochs=3, num_units=9, batch_size=10)


def test_a_field_that_the_account_needs_may_not_be_missing():
    for mechanism in (SST2, Composition((SST2,)), BestOfRuns(SST2, mean_runs=2.0)):
        for name in mechanism.to_dict().keys() - {"mechanism"}:
            fields = {key: value for key, value in mechanism.to_dict().items() if key != name}
            with pytest.raises(ValueError, match=f"lacks {name}"):
                mechanism_from_dict(fields)


@pytest.mark.parametrize(("noise", "count_stddev"), [(0.6, 51.2), (1.0, 5.0)])
def test_adaptive_clipping_pays_for_its_count(noise, count_stddev):
    of_gradient = (noise**-2 - (2 * count_stddev) ** -2) ** -0.5
    adaptive = adaptive_clipping(67349, 1024, of_gradient, 198, count_stddev=count_stddev)
    assert adaptive.noise_multiplier == pytest.approx(noise, rel=1e-12)
    plain = dpsgd(67349, 1024, of_gradient, 198)
    assert adaptive.epsilon(1e-5) > plain.epsilon(1e-5)
    # As dp-accounting has it for one release with the noise of both.
    accountant = pld.PLDAccountant()
    both = dp_accounting.GaussianDpEvent(noise)
    step = dp_accounting.PoissonSampledDpEvent(1024 / 67349, both)
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, 198))
    assert adaptive.epsilon(1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_schedules():
    steps = (segment(1024, 0.9, 99), segment(512, 1.2, 99))
    epsilon = DPSGDSchedule(num_units=67349, segments=steps).epsilon(1e-5)
    low, high = (dpsgd(67349, b, s, 198).epsilon(1e-5) for b, s in ((512, 1.2), (1024, 0.9)))
    assert low < epsilon < high
    schedule = DPSGDSchedule(num_units=67349, segments=(*steps, segment(9, 1.0, 0)))
    assert [schedule.segment_at(step) for step in (0, 98, 99, 197)] == [
        steps[0],
        steps[0],
        steps[1],
        steps[1],
    ]
    with pytest.raises(ValueError, match="step must be below num_steps=198; got 198"):
        schedule.segment_at(198)
    fields = DPSGDSchedule(num_units=67349, segments=steps).to_dict()
    fields["segments"][0]["noise_multiplyer"] = 1.0
    with pytest.raises(ValueError, match=r"no field 'noise_multiplyer'\. Did you mean 'noise_mu"):
        mechanism_from_dict(fields)
    with pytest.raises(ValueError, match="A segment lacks num_steps"):
        mechanism_from_dict(
            {**fields, "segments": [{"expected_batch_size": 3, "noise_multiplier": 1.0}]}
        )
    with pytest.raises(ValueError, match="at least one Segment"):
        DPSGDSchedule(num_units=67349, segments=())
    with pytest.raises(TypeError, match="must hold Segments; got 3"):
        DPSGDSchedule(num_units=67349, segments=(3,))


def test_what_has_no_renyi_divergence_or_loss_distribution_says_so():
    group = GroupOfRecords(dpsgd(1000, 10, 4.0, 20), records_per_user=3)
    with pytest.raises(NoRenyiDivergence, match="compose the records' mechanisms"):
        group.rdp_epsilon(1e-5)
    both = compare(group, 1e-5)
    assert (both.rdp, both.disagree) == (None, False)
    with pytest.raises(NoRenyiDivergence, match="groups cannot be part of"):
        Composition((group, GroupOfRecords(SST2, records_per_user=3))).epsilon(1e-5)
    selection = BestOfRuns(dpsgd(1000, 30, 4.0, 20), mean_runs=5.0)
    mixed = Composition((dpsgd(1000, 30, 4.0, 9), selection))
    assert mixed.accountant == "rdp"
    assert compare(mixed, 1e-5).pld is None
    assert mixed.epsilon(1e-5) > selection.epsilon(1e-5)


def test_wrong_wrappers():
    with pytest.raises(ValueError, match="must have unit 'record'; got 'user'"):
        GroupOfRecords(
            user_level(100, 10, 2.0, 5, records_per_user=2),
            records_per_user=2,
        )
    with pytest.raises(TypeError, match="run must be a mechanism"):
        BestOfRuns(3, mean_runs=5.0)
    with pytest.raises(ValueError, match="mean_runs must be above 1; got 1"):
        BestOfRuns(SST2, mean_runs=1)
    with pytest.raises(ValueError, match="records_per_user=2000 is above 1000"):
        GroupOfRecords(SST2, records_per_user=2000)


OF_USERS = {
    dpsgd(1000, 30, 2.0, 20): UserSampledDPSGD,
    adaptive_clipping(1000, 30, 3.0, 20, count_stddev=5.0): UserSampledAdaptiveClippingDPSGD,
    truncated_poisson(1000, 30, 2.0, 20, largest_batch_size=40): UserSampledTruncatedPoissonDPSGD,
    fixed_size(1000, 30, 9.0, 20): UserSampledFixedSizeDPSGD,
    random_allocation(1000, 4, 2.0, 2): UserSampledRandomAllocationDPSGD,
    ShuffledDPSGD(noise_multiplier=4.0, num_epochs=3): UserSampledShuffledDPSGD,
    full_batch(9.0, 5): UserSampledFullBatch,
}


@pytest.mark.parametrize("records", OF_USERS, ids=lambda kind: kind.name)
def test_users_sampled_and_clipped_as_one_cost_what_records_do(records):
    """The same numbers, for another unit."""
    fields = {name: value for name, value in vars(records).items() if name != "unit"}
    for relation in records.relations:
        of_records = dataclasses.replace(records, neighboring=relation)
        users = OF_USERS[records](**fields | {"neighboring": relation}, records_per_user=500)
        assert users.unit == "user"
        assert users.epsilon(1e-5) == of_records.epsilon(1e-5)
        assert mechanism_from_dict(json.loads(json.dumps(users.to_dict()))) == users
    assert OF_USERS[records].refused_relations == records.refused_relations


@pytest.mark.parametrize("neighboring", ["add_or_remove_one", "zero_out", "replace_one"])
def test_records_of_users_that_are_clipped_singly_cost_more(neighboring):
    options = {"neighboring": neighboring}
    records = dpsgd(1000, 30, 2.0, 20, **options)
    assert user_level(1000, 30, 2.0, 20, records_per_user=3, **options).epsilon(1e-5) > (
        1.5 * records.epsilon(1e-5)
    )


def test_users_need_a_limit_of_records():
    with pytest.raises(ValueError, match="records_per_user must be at least 1"):
        user_sampled(1000, 30, 2.0, 20, records_per_user=0)
