"""What an audit would find if training were correct, and if its noise were half."""

from __future__ import annotations

import dataclasses

import numpy as np
from dpjax_accounting import Mechanism
from numpy.typing import NDArray
from scipy import optimize

from dpjax.audit.bounds.bound import checked_count
from dpjax.audit.bounds.curves import (
    CurveFamily,
    GaussianCurves,
    LeastProbability,
    MechanismCurves,
)
from dpjax.audit.bounds.from_scores import epsilon_of_guesses, joint_p_value
from dpjax.audit.bounds.guesses import DEFAULT_PLAN, Guesses, GuessPlan, count_correct
from dpjax.audit.membership.intervals import checked_share
from dpjax.audit.verdicts.claim_test import Claim, ClaimTest

# Of each ideal audit; fixed, so that the same question has the same answer.
_NUM_RUNS, _SEED = 200, 20230507
_MOST_CANARIES = 1_000_000
_LARGEST_MU = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Power:
    """What an ideal attack on independent canaries would show; a real attack shows less.

    Attributes:
        num_canaries: of the audit.
        claimed_epsilon: what training is claimed to be.
        half_noise_epsilon: ε of training with half the noise.
        expected_epsilon: the certified bound at the expected guesses, if the claim is right.
        expected_epsilon_at_half_noise: the same with half the noise.
        detection_rate: how often half the noise would be called a violation.
        largest_epsilon: the certified bound of an attack that makes no error.
    """

    num_canaries: int
    claimed_epsilon: float
    half_noise_epsilon: float
    expected_epsilon: float
    expected_epsilon_at_half_noise: float
    detection_rate: float
    largest_epsilon: float

    def to_dict(self) -> dict[str, float]:
        """Returns every field, ready for strict JSON."""
        return dataclasses.asdict(self)


def audit_power(
    *,
    num_canaries: int,
    claimed_epsilon: float,
    delta: float,
    mechanism: Mechanism | None = None,
    confidence: float = 0.95,
    plan: GuessPlan = DEFAULT_PLAN,
) -> Power:
    """Returns what an ideal attack would find of a correct run, and of one with half the noise.

    The scores of the canaries are independent, and their ROC curve is the largest that training
    allows: one minus the trade-off function of the mechanism, or without one that of a Gaussian
    release of the same ε at δ. A sampled mechanism allows much less than that Gaussian.

    Args:
        num_canaries: m, with a fair coin each.
        claimed_epsilon: finite, at least 0.
        delta: in (0, 1).
        mechanism: that the claim is about; what training and half its noise allow, and what
            refutes the claim, is then computed from it. Default: a Gaussian release for the first,
            ε alone for the second.
        confidence: of the bounds and of a violation.
        plan: how many guesses are made.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value lies outside its range.

    Example:
        >>> power = audit_power(num_canaries=1000, claimed_epsilon=1.0, delta=1e-5)
        >>> power.expected_epsilon < 1.0 < power.half_noise_epsilon
        True
    """
    claim = Claim(
        num_canaries=checked_count("num_canaries", num_canaries, least=1),
        epsilon=claimed_epsilon,
        delta=checked_share("delta", delta),
        mechanism=mechanism,
    )
    return power_on(claim, confidence=checked_share("confidence", confidence), plan=plan)


def power_on(claim: Claim, *, confidence: float, plan: GuessPlan) -> Power:
    """Returns the power of an audit of a claim, as for :func:`audit_power`."""
    m, epsilon, delta, mechanism = claim
    mu = gaussian_mu(epsilon, delta)
    curves: CurveFamily
    curves, unit = (
        (GaussianCurves(), mu) if mechanism is None else (MechanismCurves(mechanism), 1.0)
    )
    attack = IdealAttack.on(curves.least_probability(unit))
    at_half_noise = IdealAttack.on(curves.least_probability(2 * unit))
    test = ClaimTest(claim, significance=1 - confidence)

    def bound(guesses: list[Guesses]) -> float:
        return epsilon_of_guesses(
            guesses, num_canaries=m, delta=delta, confidence=test.confidence_of_each
        )

    return Power(
        num_canaries=m,
        claimed_epsilon=epsilon,
        half_noise_epsilon=curves.epsilon(2 * unit, delta),
        expected_epsilon=bound(_expected_guesses(m, attack, plan)),
        expected_epsilon_at_half_noise=bound(_expected_guesses(m, at_half_noise, plan)),
        detection_rate=_detection_rate(m, at_half_noise, plan, test),
        largest_epsilon=bound(_perfect_guesses(m, plan)),
    )


def canaries_needed(
    *,
    claimed_epsilon: float | None,
    delta: float,
    confidence: float = 0.95,
    plan: GuessPlan = DEFAULT_PLAN,
) -> int:
    """Returns how many canaries an ideal attack needs for a certified bound above 0.

    Args:
        claimed_epsilon: at least 0; training is a Gaussian release of this ε. None for training
            without privacy: the attack makes no error.
        delta: in (0, 1).
        confidence: of the bound.
        plan: how many guesses are made.

    Raises:
        ValueError: if a value lies outside its range, or no number of canaries is enough.

    Example:
        >>> canaries_needed(claimed_epsilon=4.0, delta=1e-5) < 100
        True
    """
    delta = checked_share("delta", delta)
    alpha = 1 - checked_share("confidence", confidence)
    attack = None
    if claimed_epsilon is not None:
        mu = gaussian_mu(claimed_epsilon, delta)
        attack = IdealAttack.on(GaussianCurves().least_probability(mu))

    def is_enough(m: int) -> bool:
        guesses = (
            _perfect_guesses(m, plan) if attack is None else _expected_guesses(m, attack, plan)
        )
        p_value = joint_p_value(
            guesses, num_canaries=m, epsilon=0.0, delta=delta, significance=alpha
        )
        return p_value < alpha

    enough = 2
    while not is_enough(enough):
        enough *= 2
        if enough > _MOST_CANARIES:
            raise ValueError(
                f"no number of canaries up to {_MOST_CANARIES} can show a leak of epsilon ="
                f" {claimed_epsilon} at delta = {delta:g} in one run. Audit at a smaller delta."
            )
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if is_enough(middle) else (middle, enough)
    return enough


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Returns the μ of the Gaussian release with this ε at δ.

    Raises:
        ValueError: if ε is negative or larger than that of μ = 30.

    Example:
        >>> round(gaussian_mu(4.0, 1e-5), 6)
        0.924931
    """
    curves = GaussianCurves()
    low, high = 1e-12, _LARGEST_MU
    if not 0 <= epsilon < curves.epsilon(high, delta):
        limit = curves.epsilon(high, delta)
        raise ValueError(f"epsilon must be at least 0 and below {limit:.4g}; got {epsilon:g}.")
    if curves.epsilon(low, delta) >= epsilon:
        return 0.0
    return float(
        optimize.brentq(lambda mu: curves.epsilon(mu, delta) - epsilon, low, high, xtol=1e-10)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class IdealAttack:
    """An attack whose ROC curve is one minus a trade-off function.

    Attributes:
        fpr: (K,) rising from 0 to 1.
        tpr: (K,) the largest at each of them.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]

    @classmethod
    def on(cls, least_probability: LeastProbability) -> IdealAttack:
        """Returns the attack on training with a trade-off function, symmetric as all here are."""
        small = np.geomspace(1e-12, 0.5, 800)
        fpr = np.concatenate([[0.0], small, 1 - small[-2::-1], [1.0]])
        tpr = np.array([1 - least_probability(1 - rate) for rate in fpr.tolist()])
        return cls(fpr, np.maximum.accumulate(tpr))

    def draw(self, rng: np.random.Generator, included: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Returns scores (m,) of canaries with coins (m,): minus the FPR where each is caught."""
        uniform = rng.random(len(included))
        return -np.where(included, np.interp(uniform, self.tpr, self.fpr), uniform)

    def share_right(self, share: float) -> float:
        """Returns it for guesses of the `share` with the highest, or lowest, scores."""
        tpr = np.interp(share, (self.fpr + self.tpr) / 2, self.tpr)
        return float(tpr / (2 * share))


def _expected_guesses(m: int, attack: IdealAttack, plan: GuessPlan) -> list[Guesses]:
    """Returns each step's expected number of right guesses, rounded down."""
    guesses = []
    for counts in plan.counts(m):
        right = sum(count * attack.share_right(count / m) for count in counts if count > 0)
        guesses.append(Guesses(sum(counts), int(right + 1e-9)))
    return guesses


def _perfect_guesses(m: int, plan: GuessPlan) -> list[Guesses]:
    # Fair coins need not include half: the guesses that go beyond half of the canaries are at risk.
    counts = [(min(num_in, m // 2), min(num_out, m // 2)) for num_in, num_out in plan.counts(m)]
    return [Guesses(max(sum(step), 1), max(sum(step), 1)) for step in counts]


def _detection_rate(m: int, attack: IdealAttack, plan: GuessPlan, test: ClaimTest) -> float:
    rng = np.random.default_rng(_SEED)
    detected = 0
    for _ in range(_NUM_RUNS):
        included: NDArray[np.bool_] = rng.random(m) < 0.5
        guesses = count_correct(attack.draw(rng, included), included, plan)
        detected += test.refutes(guesses)
    return detected / _NUM_RUNS
