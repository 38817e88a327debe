"""What follows from a mechanism, against closed forms and by other ways."""

import math

import numpy as np
import pytest
from dpjax_accounting import DPSGD, Composition, FixedSizeDPSGD, FullBatch, claim, tpr_ceiling
from dpjax_accounting.strongest_test import largest_tpr
from dpjax_accounting.unamplified import unamplified_epsilon

FULL = FullBatch(noise_multiplier=8.0, num_steps=4)


def gaussian_tpr(fpr, mu):
    """The trade-off function of the Gaussian mechanism (Dong, Roth and Su 2022, equation 6)."""
    from scipy.special import ndtr, ndtri

    return ndtr(ndtri(fpr) + mu)


@pytest.mark.parametrize("neighboring", ["add_or_remove_one", "replace_one"])
def test_without_sampling_nothing_is_amplified(neighboring):
    whole = DPSGD(100, 100, 8.0, 4, neighboring=neighboring)
    assert unamplified_epsilon(whole, 1e-5) == pytest.approx(whole.epsilon(1e-5), rel=1e-4)


def test_known_batches_protect_less_but_not_as_if_all_took_part_in_all_steps():
    sampled, whole = DPSGD(100, 10, 2.0, 30), DPSGD(100, 100, 2.0, 30)
    known = unamplified_epsilon(sampled, 1e-5)
    assert sampled.epsilon(1e-5) < known < whole.epsilon(1e-5)
    # One step: with probability 0.9 the unit is not in it, so that δ is divided by 0.1.
    one = DPSGD(100, 10, 2.0, 1)
    gaussian = DPSGD(100, 100, 2.0, 1)
    assert unamplified_epsilon(one, 1e-6) == pytest.approx(gaussian.epsilon(1e-5), rel=1e-4)
    assert unamplified_epsilon(one.after(0), 1e-6) == 0.0
    assert math.isfinite(unamplified_epsilon(DPSGD(10**7, 256, 1.0, 10**6), 1e-12))


def test_the_strongest_test_is_that_of_the_gaussian():
    fpr = np.array([0.0, 0.001, 0.01, 0.1, 0.5, 1.0])
    exact = gaussian_tpr(fpr, 2 / 8)
    bound = largest_tpr(FULL, 1e-5, fpr)
    assert (bound >= exact * (1 - 1e-9)).all() and (bound <= exact * 1.02 + 1e-4).all()
    assert (bound <= tpr_ceiling(fpr, FULL.epsilon(1e-5), 1e-5)).all()


@pytest.mark.parametrize(
    "mechanism",
    [
        FULL,
        FixedSizeDPSGD(100, 10, 8.0, 4, neighboring="replace_one"),
        Composition((DPSGD(100, 10, 8.0, 4), DPSGD(100, 20, 8.0, 2))),
    ],
)
def test_every_mechanism_has_a_claim(mechanism):
    made = claim(mechanism, 1e-5)
    assert made["guarantee"]["epsilon"] == mechanism.epsilon(1e-5)
    assert made["status"] == "complete"
    assert claim(mechanism, 1e-5, made["steps_completed"]) == made
    with pytest.raises(ValueError, match="counts in full"):
        claim(mechanism, 1e-5, 1)
