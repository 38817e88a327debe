"""What follows from a mechanism, against closed forms and by other ways."""

import math

import numpy as np
import pytest
from dpjax_accounting import (
    BestOfRuns,
    Composition,
    DPSGDSchedule,
    GroupOfRecords,
    ShuffledDPSGD,
    claim,
    tpr_ceiling,
)
from dpjax_accounting.engine.gaussian import gaussian_log_delta
from dpjax_accounting.readings.trade_off import largest_tpr
from dpjax_accounting.readings.unamplified import NotSampled, unamplified_epsilon

from tests.support import mechanisms as kinds

FULL = kinds.full_batch(8.0, 4)


def gaussian_tpr(fpr, mu):
    """The trade-off function of the Gaussian mechanism (Dong, Roth and Su 2022, equation 6)."""
    from scipy.special import ndtr, ndtri

    return ndtr(ndtri(fpr) + mu)


@pytest.mark.parametrize("neighboring", ["add_or_remove_one", "replace_one"])
def test_without_sampling_nothing_is_amplified(neighboring):
    whole = kinds.dpsgd(100, 100, 8.0, 4, neighboring=neighboring)
    assert unamplified_epsilon(whole, 1e-5) == pytest.approx(whole.epsilon(1e-5), rel=1e-4)


def test_known_batches_protect_less_but_not_as_if_all_took_part_in_all_steps():
    sampled, whole = kinds.dpsgd(100, 10, 2.0, 30), kinds.dpsgd(100, 100, 2.0, 30)
    known = unamplified_epsilon(sampled, 1e-5)
    assert sampled.epsilon(1e-5) < known < whole.epsilon(1e-5)
    # One step: with probability 0.9 the unit is not in it, so that δ is divided by 0.1.
    one = kinds.dpsgd(100, 10, 2.0, 1)
    gaussian = kinds.dpsgd(100, 100, 2.0, 1)
    assert unamplified_epsilon(one, 1e-6) == pytest.approx(gaussian.epsilon(1e-5), rel=1e-4)
    assert unamplified_epsilon(one.after(0), 1e-6) == 0.0
    assert math.isfinite(unamplified_epsilon(kinds.dpsgd(10**7, 256, 1.0, 10**6), 1e-12))


def test_without_sampling_it_is_the_epsilon_of_every_mechanism():
    for mechanism in (
        FULL,
        ShuffledDPSGD(noise_multiplier=8.0, num_epochs=3),
        Composition((FULL, kinds.full_batch(5.0, 2))),
    ):
        known = unamplified_epsilon(mechanism, 1e-5)
        assert known == pytest.approx(mechanism.epsilon(1e-5), rel=1e-3)
    allocated = kinds.random_allocation(1000, 10, 8.0, 3)
    assert unamplified_epsilon(allocated, 1e-5) == pytest.approx(
        kinds.full_batch(8.0, 3).epsilon(1e-5), rel=1e-6
    )


def test_known_draws_of_several_segments_add_up():
    segments = (kinds.segment(100, 4.0, 2), kinds.segment(500, 2.0, 1))
    known = unamplified_epsilon(DPSGDSchedule(num_units=1000, segments=segments), 1e-3)
    # Of two steps with probability 0.1 and one with 0.5, by hand.
    cases = [
        (first * second, math.sqrt(k / 16 + j / 4))
        for k, first in ((0, 0.81), (1, 0.18), (2, 0.01))
        for j, second in ((0, 0.5), (1, 0.5))
    ]
    delta = sum(w * math.exp(gaussian_log_delta(known, mu)) for w, mu in cases if mu)
    assert 1e-3 * 0.998 < delta <= 1e-3
    halves = DPSGDSchedule(
        num_units=1000, segments=(kinds.segment(100, 4.0, 20), kinds.segment(100, 4.0, 10))
    )
    whole = unamplified_epsilon(kinds.dpsgd(1000, 100, 4.0, 30), 1e-12)
    assert whole <= unamplified_epsilon(halves, 1e-12) < 1.001 * whole


@pytest.mark.parametrize("neighboring", ["zero_out", "replace_one"])
def test_known_batches_of_a_fixed_size_are_those_of_a_unit_alone(neighboring):
    fixed = kinds.fixed_size(1000, 100, 4.0, 30, neighboring=neighboring)
    poisson = kinds.dpsgd(1000, 100, 4.0, 30, neighboring=neighboring)
    assert unamplified_epsilon(fixed, 1e-6) == unamplified_epsilon(poisson, 1e-6)
    assert unamplified_epsilon(fixed.after(0), 1e-6) == 0.0


@pytest.mark.parametrize(
    ("mechanism", "words"),
    [
        (
            kinds.user_level(1000, 100, 8.0, 4, records_per_user=2),
            "by different amounts",
        ),
        (
            kinds.truncated_poisson(1000, 100, 8.0, 4, largest_batch_size=110),
            "by different amounts",
        ),
        (GroupOfRecords(FULL, records_per_user=2), "known by a bound on all of it"),
        (BestOfRuns(FULL, mean_runs=3.0), "known by a bound on all of it"),
    ],
)
def test_where_known_draws_are_not_accounted_for_it_is_said(mechanism, words):
    with pytest.raises(NotSampled, match=words):
        unamplified_epsilon(mechanism, 1e-5)


def test_the_strongest_test_is_that_of_the_gaussian():
    fpr = np.array([0.0, 0.001, 0.01, 0.1, 0.5, 1.0])
    exact = gaussian_tpr(fpr, 2 / 8)
    bound = largest_tpr(FULL, delta=1e-5, fpr=fpr)
    assert (bound >= exact * (1 - 1e-9)).all() and (bound <= exact * 1.02 + 1e-4).all()
    assert (bound <= tpr_ceiling(fpr, epsilon=FULL.epsilon(1e-5), delta=1e-5)).all()


@pytest.mark.parametrize(
    "mechanism",
    [
        FULL,
        kinds.fixed_size(100, 10, 8.0, 4, neighboring="replace_one"),
        Composition((kinds.dpsgd(100, 10, 8.0, 4), kinds.dpsgd(100, 20, 8.0, 2))),
    ],
)
def test_every_mechanism_has_a_claim(mechanism):
    made = claim(mechanism, 1e-5)
    assert made["guarantee"]["epsilon"] == mechanism.epsilon(1e-5)
    assert made["status"] == "complete"
    assert claim(mechanism, 1e-5, steps_completed=made["steps_completed"]) == made
    assert made["guarantee"]["epsilon_unamplified"] > 0


def test_what_has_no_steps_has_no_claim_for_some_of_them():
    with pytest.raises(ValueError, match="counts in full"):
        claim(Composition((FULL, kinds.full_batch(5.0, 2))), 1e-5, steps_completed=1)
    unknown = claim(
        kinds.user_level(1000, 100, 80.0, 4, records_per_user=2),
        1e-5,
        steps_completed=2,
    )
    assert unknown["guarantee"]["epsilon_unamplified"] is None
    assert (unknown["steps_planned"], unknown["steps_completed"]) == (4, 2)


def test_epochs_that_are_begun_are_claimed():
    epochs = ShuffledDPSGD(noise_multiplier=8.0, num_epochs=3, num_units=1000, batch_size=300)
    for step, begun in ((0, 0), (4, 1), (5, 2), (11, 3)):
        sections = claim(epochs, 1e-5, steps_completed=step)
        assert sections["status"] == "unfinished"
        assert (sections["steps_planned"], sections["steps_completed"]) == (12, step)
        expected = kinds.full_batch(8.0, begun).epsilon(1e-5)
        assert sections["guarantee"]["epsilon"] == pytest.approx(expected)
    assert claim(epochs, 1e-5, steps_completed=12)["status"] == "complete"
    # Without sizes nobody knows how many steps there are.
    assert claim(ShuffledDPSGD(noise_multiplier=8.0, num_epochs=3), 1e-5)["steps_planned"] is None
