"""Every kind of mechanism: round trips, relations, known values, and the traps of each."""

from __future__ import annotations

import dataclasses
import json
import math

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from dpjax_accounting import (
    DPSGD,
    AdaptiveClippingDPSGD,
    BandedDPSGD,
    BestOfRuns,
    Composition,
    DPSGDSchedule,
    FixedSizeDPSGD,
    FullBatch,
    GroupOfRecords,
    NoRenyiDivergence,
    Segment,
    ShuffledDPSGD,
    TruncatedPoissonDPSGD,
    UserLevelDPSGD,
    compare,
    mechanism_from_dict,
)
from dpjax_accounting.mechanisms.best_of_runs import _negative_binomial

SST2 = DPSGD(67349, 1024, 1.0, 198)
KINDS = [
    (SST2, {"add_or_remove_one", "replace_one", "zero_out"}),
    (
        DPSGDSchedule(1000, (Segment(100, 3.0, 20), Segment(200, 4.0, 10))),
        {"add_or_remove_one", "replace_one", "zero_out"},
    ),
    (FullBatch(20.0, 100), {"add_or_remove_one", "replace_one", "zero_out"}),
    (ShuffledDPSGD(4.0, 3), {"replace_one", "zero_out"}),
    (TruncatedPoissonDPSGD(1000, 30, 60, 3.0, 20), {"replace_one", "zero_out"}),
    (FixedSizeDPSGD(1000, 30, 4.0, 20), {"replace_one", "zero_out"}),
    (BandedDPSGD(1000, 30, 3.0, 20, 4, 1.0), {"replace_one", "zero_out"}),
    (
        UserLevelDPSGD(1000, 30, 3.0, 20, 3),
        {"add_or_remove_one", "replace_one", "zero_out"},
    ),
    (AdaptiveClippingDPSGD(1000, 30, 3.0, 5.0, 20), {"add_or_remove_one"}),
]
WRAPPERS = [
    BestOfRuns(SST2, 5.0),
    GroupOfRecords(DPSGD(1000, 10, 4.0, 20), 3),
    Composition((SST2, FullBatch(9.0, 1))),
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
        DPSGD(10, 1, 1.0, 0),
        FullBatch(1.0, 0),
        ShuffledDPSGD(1.0, 0),
        TruncatedPoissonDPSGD(10, 1, 2, 1.0, 0),
        FixedSizeDPSGD(10, 1, 1.0, 0),
        BandedDPSGD(10, 1, 1.0, 0, 2, 1.0),
        UserLevelDPSGD(10, 1, 1.0, 0, 2),
        AdaptiveClippingDPSGD(10, 1, 1.0, 5.0, 0),
    ):
        assert mechanism.epsilon(1e-5) == mechanism.rdp_epsilon(1e-5) == 0.0
        assert mechanism.delta(0.0) == 0.0


def test_replace_one_means_the_same_to_both_accountants():
    # dp-accounting's two do not agree: 9.997 and 4.729 for the same event.
    event = dp_accounting.GaussianDpEvent(1.0)
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    theirs = pld.PLDAccountant(neighboring_relation=relation).compose(event).get_epsilon(1e-5)
    undoubled = rdp.RdpAccountant(neighboring_relation=relation).compose(event).get_epsilon(1e-5)
    both = compare(FullBatch(1.0, 1, neighboring="replace_one"), 1e-5)
    assert both.pld == pytest.approx(theirs, rel=1e-6)
    assert undoubled < 0.5 * both.pld
    assert both.pld < both.rdp < 1.1 * both.pld


def test_replace_one_under_poisson_sampling():
    mechanism = DPSGD(67349, 1024, 1.0, 198, neighboring="replace_one")
    event = dp_accounting.PoissonSampledDpEvent(1024 / 67349, dp_accounting.GaussianDpEvent(1.0))
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    theirs = pld.PLDAccountant(neighboring_relation=relation).compose(event, 198)
    assert mechanism.epsilon(7.424e-6) == pytest.approx(theirs.get_epsilon(7.424e-6), rel=1e-4)


@pytest.mark.parametrize(
    ("num_units", "size", "noise", "count", "delta", "epsilon", "renyi"),
    [
        (67349, 1024, 1.0, 198, 7.424e-6, 11.0615, 15.3606),
        (42061, 1024, 1.5, 411, 8e-6, 8.05904, 10.39195),
        (10000, 100, 1.0, 1000, 1e-5, 15.16137, 20.98707),
    ],
)
def test_fixed_size_batches_use_the_sensitivity_of_a_replacement(
    num_units, size, noise, count, delta, epsilon, renyi
):
    both = compare(FixedSizeDPSGD(num_units, size, noise, count), delta)
    assert both.pld == pytest.approx(epsilon, rel=1e-5)
    # dp-accounting's bound is the strengthened one of the same paper, up to 1 % tighter.
    assert renyi * (1 - 1e-6) < both.rdp < 1.01 * renyi
    # Every batch of Poisson sampling with all units, reduced at random, is one of a fixed size.
    reduced = TruncatedPoissonDPSGD(num_units, num_units, size, noise, count)
    for relation in ("replace_one", "zero_out"):
        whole = dataclasses.replace(reduced, neighboring=relation).epsilon(delta)
        assert whole == pytest.approx(both.pld, rel=1e-4)
    zeroed = FixedSizeDPSGD(num_units, size, noise, count, neighboring="zero_out").epsilon(delta)
    assert 0.8 * both.pld < zeroed < both.pld
    # Not the loss of Poisson batches, with either relation.
    assert zeroed > 4 * DPSGD(num_units, size, noise, count, neighboring="zero_out").epsilon(delta)
    poisson = DPSGD(num_units, size, noise, count, neighboring="replace_one").epsilon(delta)
    assert both.pld > 2.5 * poisson


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_batches_of_most_units_are_hardly_amplified(relation):
    whole = FullBatch(4.0, 20, neighboring=relation)
    for size in (50, 100):
        fixed = FixedSizeDPSGD(100, size, 4.0, 20, neighboring=relation)
        assert fixed.epsilon(1e-5) == whole.epsilon(1e-5)
    assert fixed.rdp_epsilon(1e-5) == whole.rdp_epsilon(1e-5)
    few = FixedSizeDPSGD(100, 30, 4.0, 20, neighboring=relation)
    assert few.epsilon(1e-5) < whole.epsilon(1e-5)


@pytest.mark.parametrize(
    ("fields", "delta", "zero_out", "replace_one"),
    [
        ((67349, 1024, 1152, 0.6, 198), 7.424e-6, 6.697444152635192, 7.186710145313944),
        ((42061, 1024, 1152, 1.0, 411), 8e-6, 3.241397263712751, 4.799807997449251),
        ((1000000, 8192, 8704, 0.8, 2000), 1e-7, 4.593246990249125, 6.136588165716036),
    ],
)
def test_truncated_poisson_agrees_with_dp_accounting(fields, delta, zero_out, replace_one):
    for relation, expected in (("zero_out", zero_out), ("replace_one", replace_one)):
        mechanism = TruncatedPoissonDPSGD(*fields, neighboring=relation)
        assert mechanism.epsilon(delta) == pytest.approx(expected, rel=1e-5)


def test_truncation_far_above_the_mean_is_free_and_at_the_mean_ruinous():
    poisson = DPSGD(67349, 1024, 1.0, 198).epsilon(7.424e-6)
    assert TruncatedPoissonDPSGD(67349, 1024, 67349, 1.0, 198).epsilon(7.424e-6) == poisson
    padded = TruncatedPoissonDPSGD(67349, 1024, 1024 + 6 * 32, 1.0, 198).epsilon(7.424e-6)
    assert poisson <= padded < poisson * 1.0001
    assert TruncatedPoissonDPSGD(67349, 1024, 1024, 1.0, 198).epsilon(7.424e-6) > 5 * poisson


@pytest.mark.parametrize(
    ("fields", "delta", "exact", "black_box"),
    [
        ((100000, 512, 1.0, 600, 4), 1e-6, 3.7932353346825733, 4.80698),
        ((100000, 512, 2.0, 600, 16), 1e-6, 5.588821153387024, 5.98323),
        ((1000000, 4096, 3.0, 1000, 32), 1e-7, 8.230499092805262, 9.00015),
    ],
)
def test_users_with_several_records(fields, delta, exact, black_box):
    *record, k = fields
    epsilon = UserLevelDPSGD(*fields).epsilon(delta)
    assert exact < epsilon < exact * (1 + 1e-5)
    group = GroupOfRecords(DPSGD(*record), k).epsilon(delta)
    # The reference group bound uses k e^{(k - 1) ε} δ, which is a little looser.
    assert epsilon < group < black_box
    assert group > 0.98 * black_box
    assert epsilon > DPSGD(*record).epsilon(delta)


@pytest.mark.parametrize(
    ("run", "k"), [(FullBatch(20.0, 4), 8), (FullBatch(2000.0, 4), 1000), (SST2, 4)]
)
def test_groups_of_records(run, k):
    group = GroupOfRecords(run, k)
    epsilon = group.epsilon(1e-5)
    assert group.delta(epsilon) <= 1e-5 < group.delta(0.999 * epsilon)
    if isinstance(run, FullBatch):
        # All k records together are one contribution of k clip norms.
        whole = FullBatch(run.noise_multiplier / k, run.num_steps)
        assert whole.epsilon(1e-5) < epsilon < 1.3 * whole.epsilon(1e-5)


@pytest.mark.parametrize(("run", "k"), [(SST2, 8), (DPSGD(1000, 30, 1.0, 20), 1000)])
def test_groups_that_are_too_large_for_their_delta_are_refused_in_words(run, k):
    group = GroupOfRecords(run, k)
    assert group.delta(900.0) == 1.0
    words = f"records_per_user={k} at delta=1e-05: the group bound cannot be met at this delta. Use"
    with pytest.raises(ValueError, match=words):
        group.epsilon(1e-5)


def test_a_delta_below_every_float_is_not_nothing_for_a_group():
    selection = BestOfRuns(FullBatch(8.0, 3), 5.0)
    assert selection.delta(5000.0) == 1e-25
    assert GroupOfRecords(selection, 1000).delta(5000.0 * 1000) == 1.0


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
    mechanism = BandedDPSGD(10**6, 8192, 0.8, 2000, bands, column_norm=1.0)
    assert exact < mechanism.epsilon(1e-7) < exact * (1 + 1e-5)
    scaled = BandedDPSGD(10**6, 8192, 1.6, 2000, bands, column_norm=2.0)
    assert scaled.epsilon(1e-7) == mechanism.epsilon(1e-7)


def test_banded_groups_must_hold_a_batch():
    with pytest.raises(ValueError, match="larger than a group, which has num_units / bands = 250"):
        BandedDPSGD(1000, 300, 1.0, 10, 4, 1.0)


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
    epsilon = BestOfRuns(SST2, mean, distribution).epsilon(7.424e-6)
    assert epsilon == pytest.approx(expected, rel=5e-3)
    assert epsilon > SST2.rdp_epsilon(7.424e-6)


def test_a_fixed_number_of_runs_is_a_composition():
    with pytest.raises(ValueError, match="describe it as a Composition"):
        BestOfRuns(SST2, 5, "fixed")


def test_shuffled_epochs_claim_no_amplification():
    shuffled = ShuffledDPSGD(1.0, 3)
    assert shuffled.epsilon(1e-5) == FullBatch(1.0, 3).epsilon(1e-5)
    assert shuffled.epsilon(1e-5) > 5 * SST2.epsilon(1e-5)


@pytest.mark.parametrize(("noise", "count_stddev"), [(0.6, 51.2), (1.0, 5.0)])
def test_adaptive_clipping_pays_for_its_count(noise, count_stddev):
    of_gradient = (noise**-2 - (2 * count_stddev) ** -2) ** -0.5
    adaptive = AdaptiveClippingDPSGD(67349, 1024, of_gradient, count_stddev, 198)
    assert adaptive.noise_multiplier == pytest.approx(noise, rel=1e-12)
    plain = DPSGD(67349, 1024, of_gradient, 198)
    assert adaptive.epsilon(1e-5) > plain.epsilon(1e-5)


def test_schedules():
    steps = (Segment(1024, 0.9, 99), Segment(512, 1.2, 99))
    epsilon = DPSGDSchedule(67349, steps).epsilon(1e-5)
    low, high = (DPSGD(67349, b, s, 198).epsilon(1e-5) for b, s in ((512, 1.2), (1024, 0.9)))
    assert low < epsilon < high
    fields = DPSGDSchedule(67349, steps).to_dict()
    fields["segments"][0]["noise_multiplyer"] = 1.0
    with pytest.raises(ValueError, match=r"no field 'noise_multiplyer'\. Did you mean 'noise_mu"):
        mechanism_from_dict(fields)
    with pytest.raises(ValueError, match="A segment lacks num_steps"):
        mechanism_from_dict(
            {**fields, "segments": [{"expected_batch_size": 3, "noise_multiplier": 1.0}]}
        )
    with pytest.raises(ValueError, match="at least one Segment"):
        DPSGDSchedule(67349, ())
    with pytest.raises(TypeError, match="must hold Segments; got 3"):
        DPSGDSchedule(67349, (3,))


def test_what_has_no_renyi_divergence_or_loss_distribution_says_so():
    group = GroupOfRecords(DPSGD(1000, 10, 4.0, 20), 3)
    with pytest.raises(NoRenyiDivergence, match="compose the records' mechanisms"):
        group.rdp_epsilon(1e-5)
    both = compare(group, 1e-5)
    assert (both.rdp, both.disagree) == (None, False)
    with pytest.raises(NoRenyiDivergence, match="groups cannot be part of"):
        Composition((group, GroupOfRecords(SST2, 3))).epsilon(1e-5)
    selection = BestOfRuns(DPSGD(1000, 30, 4.0, 20), 5.0)
    mixed = Composition((DPSGD(1000, 30, 4.0, 9), selection))
    assert mixed.accountant == "rdp"
    assert compare(mixed, 1e-5).pld is None
    assert mixed.epsilon(1e-5) > selection.epsilon(1e-5)


def test_wrong_wrappers():
    with pytest.raises(ValueError, match="must have unit 'record'; got 'user'"):
        GroupOfRecords(UserLevelDPSGD(100, 10, 2.0, 5, 2), 2)
    with pytest.raises(TypeError, match="run must be a mechanism"):
        BestOfRuns(3, 5.0)
    with pytest.raises(ValueError, match="mean_runs must be above 1; got 1"):
        BestOfRuns(SST2, 1)
    with pytest.raises(ValueError, match="records_per_user=2000 is above 1000"):
        GroupOfRecords(SST2, 2000)
