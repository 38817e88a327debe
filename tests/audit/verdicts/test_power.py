"""The power of an audit: simulated, and consistent with what an ideal attack then finds."""

import numpy as np
import pytest
from dpjax_accounting import DPSGD, FullBatch
from scipy import special

from dpjax.audit import (
    DEFAULT_PLAN,
    SYMMETRIC_PLAN,
    GaussianCurves,
    auc,
    epsilon_from_scores,
)
from dpjax.audit.verdicts.power import IdealAttack, audit_power, canaries_needed, gaussian_mu


@pytest.mark.parametrize(
    ("epsilon", "mu"), [(1, 0.268051), (2, 0.501552), (4, 0.924931), (8, 1.666031), (0, 0.0)]
)
def test_mu_of_epsilon(epsilon, mu):
    assert gaussian_mu(epsilon, 1e-5) == pytest.approx(mu, abs=1e-6)


@pytest.mark.parametrize("epsilon", [-1.0, 1e4, np.nan, np.inf])
def test_an_epsilon_out_of_reach_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must be at least 0 and below"):
        gaussian_mu(epsilon, 1e-5)


@pytest.mark.parametrize(("claimed", "num_canaries"), [(4.0, 300), (8.0, 300)])
def test_expected_epsilon_is_the_median_of_ideal_attacks(claimed, num_canaries):
    power = audit_power(num_canaries=num_canaries, claimed_epsilon=claimed, delta=1e-5)
    rng, found = np.random.default_rng(0), []
    for _ in range(15):
        coins = rng.random(num_canaries) < 0.5
        scores = rng.normal(size=num_canaries) + gaussian_mu(claimed, 1e-5) * coins
        found.append(epsilon_from_scores(scores, coins, delta=1e-5).epsilon)
    # Each audit takes its best step, so its bound is somewhat above that of the expected guesses.
    assert power.expected_epsilon == pytest.approx(np.median(found), rel=0.4)
    assert power.expected_epsilon <= np.median(found) + 0.05


def test_half_the_noise_and_more_canaries_show_more():
    small, large = (
        audit_power(num_canaries=m, claimed_epsilon=2.0, delta=1e-5) for m in (300, 1000)
    )
    for power in (small, large):
        assert power.expected_epsilon < power.expected_epsilon_at_half_noise
        assert power.expected_epsilon_at_half_noise < power.largest_epsilon
        assert power.half_noise_epsilon == GaussianCurves().epsilon(
            2 * gaussian_mu(2.0, 1e-5), 1e-5
        )
    assert small.expected_epsilon < large.expected_epsilon
    assert small.largest_epsilon < large.largest_epsilon


def test_a_mechanism_gives_more_power_than_its_epsilon():
    mechanism = FullBatch(noise_multiplier=1 / gaussian_mu(4.0, 1e-5), num_steps=1)
    options = {"num_canaries": 1000, "claimed_epsilon": 4.0, "delta": 1e-5}
    alone = audit_power(**options)
    known = audit_power(**options, mechanism=mechanism)
    assert alone.detection_rate == 0.0
    assert known.detection_rate > 0.5
    assert known.half_noise_epsilon == pytest.approx(alone.half_noise_epsilon)
    assert known.to_dict()["num_canaries"] == 1000


def test_the_same_question_has_the_same_answer():
    options = {"num_canaries": 200, "claimed_epsilon": 1.0, "delta": 1e-5}
    assert audit_power(**options) == audit_power(**options)


@pytest.mark.parametrize("plan", [DEFAULT_PLAN, SYMMETRIC_PLAN])
@pytest.mark.parametrize("claimed", [2.0, 8.0, None])
def test_so_many_canaries_are_needed(claimed, plan):
    """With them an ideal attack's expected guesses show something, with half of them nothing."""
    needed = canaries_needed(claimed_epsilon=claimed, delta=1e-5, plan=plan)
    if claimed is None:
        assert needed <= 20
        return
    options = {"claimed_epsilon": claimed, "delta": 1e-5, "plan": plan}
    assert audit_power(num_canaries=needed, **options).expected_epsilon > 0
    assert audit_power(num_canaries=needed // 2, **options).expected_epsilon == 0


def test_a_stronger_claim_needs_more_canaries():
    needed = [canaries_needed(claimed_epsilon=e, delta=1e-5) for e in (0.5, 1.0, 2.0, 4.0, 8.0)]
    assert needed == sorted(needed, reverse=True)


@pytest.mark.parametrize(("claimed", "delta"), [(0.0, 1e-9), (0.05, 1e-3)])
def test_a_claim_that_no_audit_can_show_is_refused(claimed, delta):
    with pytest.raises(ValueError, match="no number of canaries up to 1000000 can show a leak"):
        canaries_needed(claimed_epsilon=claimed, delta=delta)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_canaries": 0}, ValueError, "num_canaries must be at least 1; got 0"),
        ({"num_canaries": 2.5}, TypeError, "num_canaries must be a whole number; got 2.5"),
        ({"delta": 0}, ValueError, "delta must lie strictly between 0 and 1; got 0"),
        ({"confidence": 1}, ValueError, "confidence must lie strictly between 0 and 1; got 1"),
        ({"claimed_epsilon": -1}, ValueError, "epsilon must be at least 0 and below"),
    ],
)
def test_bad_numbers_are_refused(changed, error, message):
    options = {"num_canaries": 100, "claimed_epsilon": 1.0, "delta": 1e-5}
    with pytest.raises(error, match=message):
        audit_power(**options | changed)


def test_a_sampled_mechanism_allows_less_than_a_gaussian_release_of_its_epsilon():
    mechanism = DPSGD(num_units=1000, expected_batch_size=50, noise_multiplier=0.8, num_steps=100)
    options = {"claimed_epsilon": mechanism.epsilon(1e-5), "delta": 1e-5}
    few, many = (audit_power(num_canaries=m, mechanism=mechanism, **options) for m in (100, 500))
    gaussian = audit_power(num_canaries=500, **options)
    assert few.half_noise_epsilon == pytest.approx(
        DPSGD(num_units=1000, expected_batch_size=50, noise_multiplier=0.4, num_steps=100).epsilon(
            1e-5
        )
    )
    assert few.detection_rate < 0.2 < 0.8 < many.detection_rate
    assert few.expected_epsilon < many.expected_epsilon < gaussian.expected_epsilon


@pytest.mark.parametrize("mu", [0.0, 0.3, 2.0, 6.0])
def test_an_ideal_attack_on_a_gaussian_release(mu):
    attack = IdealAttack.on(GaussianCurves().least_probability(mu))
    np.testing.assert_allclose(attack.tpr, special.ndtr(special.ndtri(attack.fpr) + mu), atol=1e-5)
    included = np.arange(40_000) < 20_000
    scores = attack.draw(np.random.default_rng(0), included)
    area = special.ndtr(mu / np.sqrt(2))
    assert auc(scores[included], scores[~included]) == pytest.approx(area, abs=0.012)
    for share in (0.02, 0.3):
        highest = np.argsort(-scores)[: int(share * 40_000)]
        lowest = np.argsort(scores)[: int(share * 40_000)]
        expected = attack.share_right(share)
        assert included[highest].mean() == pytest.approx(expected, abs=0.06)
        assert (~included[lowest]).mean() == pytest.approx(expected, abs=0.06)


def test_guessing_every_canary_in_is_right_for_half_of_them():
    attack = IdealAttack.on(GaussianCurves().least_probability(1.0))
    assert attack.share_right(1.0) == 0.5
