"""The joint p-value of a plan against enumeration, and the bounds from scores."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dpjax.audit import (
    DEFAULT_PLAN,
    SYMMETRIC_PLAN,
    GuessPlan,
    epsilon_from_scores,
    fdp_epsilon_from_scores,
    one_run_epsilon,
    one_run_fdp_epsilon,
)
from dpjax.audit.bounds.from_scores import (
    _crossing_probability,
    epsilon_of_guesses,
    is_rejected_by_a_step,
    joint_p_value,
)
from dpjax.audit.bounds.guesses import Guesses, count_correct
from dpjax.audit.bounds.one_run import one_run_p_value

COINS = np.random.default_rng(0).random(1000) < 0.5
SCORES = np.random.default_rng(1).normal(size=1000) + 1.5 * COINS


def single_p_value(step, epsilon, delta, num_canaries=1000):
    return one_run_p_value(
        num_canaries=num_canaries, **step._asdict(), epsilon=epsilon, delta=delta
    )


@st.composite
def steps_of_guesses(draw, most=40):
    totals = sorted(draw(st.sets(st.integers(1, most), min_size=1, max_size=4)))
    guesses, right, before = [], 0, 0
    for total in totals:
        right += draw(st.integers(0, total - before))
        guesses.append(Guesses(total, right))
        before = total
    return guesses


def enumerated_p_value(guesses, epsilon):
    """Over all 2^r outcomes of r guesses, each right with probability q."""
    q = special.expit(epsilon)
    p_values = [stats.binom.sf(np.arange(r + 1) - 1, r, q) for r, _ in guesses]
    observed = min(p[v] for p, (_, v) in zip(p_values, guesses, strict=True))
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=guesses[-1].num_guesses):
        right = np.cumsum(outcome)
        least = min(p[right[r - 1]] for p, (r, _) in zip(p_values, guesses, strict=True))
        if least <= observed * (1 + 1e-9):
            total += q ** right[-1] * (1 - q) ** (len(outcome) - right[-1])
    return total


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.0])
@pytest.mark.parametrize(
    "guesses",
    [
        [Guesses(3, 3), Guesses(6, 5)],
        [Guesses(3, 1), Guesses(6, 4)],
        [Guesses(1, 1), Guesses(4, 2), Guesses(9, 7)],
        [Guesses(2, 0), Guesses(5, 0)],
        [Guesses(10, 9)],
    ],
)
def test_joint_p_value_is_that_of_all_outcomes(guesses, epsilon):
    p = joint_p_value(guesses, num_canaries=20, epsilon=epsilon, delta=0)
    assert p == pytest.approx(enumerated_p_value(guesses, epsilon), rel=1e-9)


@given(step=steps_of_guesses().map(lambda steps: steps[-1]), epsilon=st.floats(0, 4))
def test_one_step_has_the_single_p_value_and_the_slack(step, epsilon):
    p = joint_p_value([step], num_canaries=1000, epsilon=epsilon, delta=1e-6)
    expected = single_p_value(step, epsilon, delta=0) + 1000 * 1e-6
    assert p == pytest.approx(min(1.0, expected), abs=1e-12)


@given(guesses=steps_of_guesses(), epsilon=st.floats(0, 4))
def test_joint_p_value_lies_between_the_least_single_one_and_bonferronis_sum(guesses, epsilon):
    joint = joint_p_value(guesses, num_canaries=1000, epsilon=epsilon, delta=0)
    least = min(single_p_value(step, epsilon, delta=0) for step in guesses)
    assert least * (1 - 1e-9) - 1e-15 <= joint <= len(guesses) * least * (1 + 1e-9) + 1e-15


def test_where_delta_is_large_the_p_value_is_bonferronis():
    guesses, delta = [Guesses(20, 18), Guesses(100, 85)], 2e-5
    # m δ = 0.02 is more than a quarter of 0.05 and less than a quarter of 0.1.
    options = {"num_canaries": 1000, "epsilon": 1.0, "delta": delta}
    least = min(single_p_value(step, 1.0, delta) for step in guesses)
    assert joint_p_value(guesses, **options) == pytest.approx(2 * least)
    joint = joint_p_value(guesses, **options, significance=0.1)
    assert joint == pytest.approx(joint_p_value(guesses, **options | {"delta": 0}) + 0.02)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("totals", [(3, 6), (2, 8, 16), (1, 4, 8, 20)])
def test_a_right_claim_is_refuted_no_more_often_than_the_level(totals, epsilon):
    """Exactly, over all outcomes of guesses that are right with probability q."""
    q = special.expit(epsilon)
    refuted, ends = 0.0, (0, *totals)
    segments = [
        [(right, stats.binom.pmf(right, b - a, q)) for right in range(b - a + 1)]
        for a, b in itertools.pairwise(ends)
    ]
    for outcome in itertools.product(*segments):
        right = np.cumsum([count for count, _ in outcome]).tolist()
        guesses = [Guesses(r, v) for r, v in zip(totals, right, strict=True)]
        p = joint_p_value(guesses, num_canaries=40, epsilon=epsilon, delta=0)
        refuted += math.prod(share for _, share in outcome) * (p < 0.05)
    assert refuted <= 0.05


def test_unlikely_outcomes_are_not_lost():
    """Every guess right, at ε = 0: far below the smallest probability that is convolved."""
    p = joint_p_value([Guesses(200, 200)], num_canaries=200, epsilon=0, delta=0)
    assert 2.0**-200 <= p < 1e-22


@settings(max_examples=40)
@given(guesses=steps_of_guesses(), low=st.floats(0, 4), step=st.floats(0, 0.5))
def test_an_interval_of_epsilon_is_rejected_only_with_all_that_it_holds(guesses, low, step):
    for share in (0.0, 0.3, 1.0):
        epsilon = low + share * step
        p = joint_p_value(guesses, num_canaries=1000, epsilon=epsilon, delta=0)
        most = _crossing_probability(guesses, lowest=low, highest=low + step)
        assert most >= p * (1 - 1e-9) - 1e-15


@settings(max_examples=30, deadline=None)
@given(guesses=steps_of_guesses(most=200), data=st.data())
def test_every_smaller_epsilon_is_rejected(guesses, data):
    bound = epsilon_of_guesses(guesses, num_canaries=300, delta=1e-6, confidence=0.95)
    if bound > 0:
        below = data.draw(st.floats(0, bound, exclude_max=True))
        assert joint_p_value(guesses, num_canaries=300, epsilon=below, delta=1e-6) < 0.05
    # The p-value may jump between the bound and what is not rejected, shortly above it.
    above = (
        joint_p_value(guesses, num_canaries=300, epsilon=bound + step, delta=1e-6)
        for step in np.linspace(0, 1e-4, 21)
    )
    assert any(p >= 0.05 - 1e-5 for p in above)


def test_p_values_that_fall_as_epsilon_grows_exist():
    """Between this bound and slightly more the joint p-value goes up to 0.05 and down again."""
    guesses = count_correct(SCORES, COINS)
    bound = epsilon_of_guesses(guesses, num_canaries=1000, delta=0, confidence=0.95)
    near = bound + np.arange(0, 0.05, 0.0005)
    p_values = [joint_p_value(guesses, num_canaries=1000, epsilon=e, delta=0) for e in near]
    assert np.diff(p_values).min() < 0


@pytest.mark.parametrize("delta", [0.0, 1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("plan", [DEFAULT_PLAN, SYMMETRIC_PLAN])
def test_certified_bound_falls_with_delta_and_confidence(delta, plan):
    def epsilon(**changed):
        options = {"delta": delta, "confidence": 0.95} | changed
        return epsilon_from_scores(SCORES, COINS, plan=plan, **options).epsilon

    assert epsilon() >= epsilon(delta=3 * delta + 1e-7)
    assert epsilon() > epsilon(confidence=0.99) > 0


def test_certified_bound_of_one_step_is_the_one_run_bound_where_delta_is_0():
    plan = GuessPlan(((0.1, 0.1),))
    [step] = count_correct(SCORES, COINS, plan)
    single = one_run_epsilon(num_canaries=1000, **step._asdict(), delta=0)
    bound = epsilon_from_scores(SCORES, COINS, delta=0, plan=plan)
    assert bound.epsilon == pytest.approx(single.epsilon, abs=2e-6)
    assert bound.epsilon <= single.epsilon
    assert bound.numbers == {"num_canaries": 1000, "guesses": [step._asdict()]}


def test_fdp_bound_is_the_largest_of_the_steps():
    guesses = count_correct(SCORES, COINS)
    singles = [
        one_run_fdp_epsilon(
            num_canaries=1000, **step._asdict(), delta=1e-5, confidence=1 - 0.05 / len(guesses)
        ).epsilon
        for step in guesses
    ]
    bound = fdp_epsilon_from_scores(SCORES, COINS, delta=1e-5)
    assert bound.epsilon == pytest.approx(max(singles), rel=1e-6)
    assert bound.validity == "model-based"


def test_no_trade_off_function_without_a_leak_survives_a_perfect_attack():
    guesses = [Guesses(100, 100), Guesses(400, 400)]
    options = {"num_canaries": 1000, "significance": 0.05}
    assert is_rejected_by_a_step(lambda x: x, guesses, **options)
    assert not is_rejected_by_a_step(lambda x: 0.0, guesses, **options)


@pytest.mark.parametrize("bound", [epsilon_from_scores, fdp_epsilon_from_scores])
class TestUnusualScores:
    """Each is refused, or has a right answer."""

    def test_constant_scores_show_nothing(self, bound):
        members_first = np.sort(COINS)[::-1]
        for constant in (0.0, np.inf, -np.inf):
            assert bound(np.full(1000, constant), members_first, delta=1e-5).epsilon == 0

    def test_infinite_scores_count_as_the_highest(self, bound):
        shifted = np.where(SCORES > 1, np.inf, SCORES)
        assert bound(shifted, COINS, delta=1e-5).epsilon > 0
        perfect = np.where(COINS, np.inf, -np.inf)
        assert bound(perfect, COINS, delta=1e-5).epsilon > 4

    def test_three_canaries_show_nothing(self, bound):
        assert bound([1.0, 0.0, 0.5], [True, False, True], delta=1e-5).epsilon == 0

    def test_all_in_or_all_out_is_refused(self, bound):
        for value in (True, False):
            with pytest.raises(ValueError, match="not fair coins"):
                bound(SCORES, np.full(1000, value), delta=1e-5)

    def test_nan_is_refused(self, bound):
        with pytest.raises(ValueError, match="NaN for 1 of 1000"):
            bound(np.where(np.arange(1000) == 3, np.nan, SCORES), COINS, delta=1e-5)

    def test_different_lengths_are_refused(self, bound):
        with pytest.raises(ValueError, match="one truth value per score"):
            bound(SCORES, COINS[:-1], delta=1e-5)

    def test_numbers_for_coins_are_refused(self, bound):
        with pytest.raises(TypeError, match="truth values"):
            bound(SCORES, COINS.astype(int), delta=1e-5)

    @pytest.mark.parametrize("delta", [-1e-5, 1.0, np.nan])
    def test_bad_deltas_are_refused(self, bound, delta):
        with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1"):
            bound(SCORES, COINS, delta=delta)


def test_delta_0_is_right_for_the_certified_bound_and_refused_for_a_gaussian_one():
    """A Gaussian release has no finite ε at δ = 0."""
    at_0 = epsilon_from_scores(SCORES, COINS, delta=0).epsilon
    assert at_0 > epsilon_from_scores(SCORES, COINS, delta=1e-5).epsilon
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1; got 0"):
        fdp_epsilon_from_scores(SCORES, COINS, delta=0)
