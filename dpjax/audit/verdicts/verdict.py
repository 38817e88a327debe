"""One audit's conclusion: a violation, consistent with the claim, or too weak to tell."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from dpjax_accounting import Mechanism
from numpy.typing import ArrayLike

from dpjax.audit.bounds.bound import EpsilonBound
from dpjax.audit.bounds.curves import CurveFamily, GaussianCurves, MechanismCurves
from dpjax.audit.bounds.from_scores import epsilon_from_scores, fdp_epsilon_from_scores
from dpjax.audit.bounds.guesses import (
    DEFAULT_PLAN,
    Guesses,
    GuessPlan,
    checked_coins,
    count_correct,
)
from dpjax.audit.membership.intervals import checked_share
from dpjax.audit.membership.roc import checked_scores
from dpjax.audit.verdicts.claim_test import Claim, ClaimTest
from dpjax.audit.verdicts.power import Power, power_on

Conclusion = Literal["violation", "consistent", "too weak to tell", "no claim"]
# Half the noise must be detected this often before "consistent" is said.
_ENOUGH_DETECTION = 0.5
# Relative: reports round.
_CLAIM_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one audit says about a claimed (ε, δ).

    Attributes:
        conclusion: "violation": the scores refute the claim. "consistent": they do not, and an
            ideal attack would have refuted it in at least half of runs with half the noise. "too
            weak to tell": they do not, but could hardly have done. "no claim": training is not
            claimed to be private.
        sentence: the conclusion in words.
        claimed_epsilon: of the accountant; None without a claim.
        delta: of every ε here.
        confidence: a right claim is called a violation in at most 1 − `confidence` of audits.
        certified: the bound that holds for any training procedure.
        model_based: the bound from the mechanism's own trade-off function, if the mechanism is
            known, else from a Gaussian one.
        power: None without a claim.
    """

    conclusion: Conclusion
    sentence: str
    claimed_epsilon: float | None
    delta: float
    confidence: float
    certified: EpsilonBound
    model_based: EpsilonBound
    power: Power | None

    def to_dict(self) -> dict[str, Any]:
        """Returns every field, ready for strict JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("certified", "model_based", "power"):
            fields[name] = fields[name] and fields[name].to_dict()
        return fields


def judge(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    delta: float,
    claimed_epsilon: float | None,
    mechanism: Mechanism | None = None,
    confidence: float = 0.95,
    plan: GuessPlan = DEFAULT_PLAN,
) -> Verdict:
    """Returns what the scores of canaries with fair coins say about a claim.

    A claim of a mechanism is refuted by its own trade-off function, which is a stronger test than
    its ε alone (:class:`dpjax.audit.verdicts.claim_test.ClaimTest`).

    Args:
        scores: (m,) numbers, higher for members; infinities are allowed.
        included: (m,) truth values: a fair coin for each canary, flipped before training.
        delta: in (0, 1), the one that `claimed_epsilon` belongs to.
        claimed_epsilon: at least 0; None if no privacy is claimed.
        mechanism: that training is claimed to be. Coins add or remove one record: it must not be
            accounted for under "replace_one".
        confidence: in (0, 1).
        plan: how many guesses are made; fixed before the scores were seen.

    Raises:
        TypeError: if the scores are not numbers or the coins not truth values.
        ValueError: if the scores hold NaN, a value lies outside its range, the coins cannot be
            fair ones, there is a mechanism but no claim, or the claim is not what the accountant
            says of the mechanism.

    Example:
        >>> import numpy as np
        >>> included = np.arange(1000) % 2 == 0
        >>> judge(included * 1.0, included, delta=1e-5, claimed_epsilon=2.0).conclusion
        'violation'
    """
    if claimed_epsilon is None and mechanism is not None:
        raise ValueError("a mechanism was given without the epsilon that it is claimed to have.")
    delta = checked_share("delta", delta)
    values = checked_scores("scores", scores)
    num_canaries = len(values)
    coins = checked_coins(included, num_canaries)
    test = power = None
    level_of_each = checked_share("confidence", confidence)
    if claimed_epsilon is not None:
        claim = Claim(num_canaries, epsilon=claimed_epsilon, delta=delta, mechanism=mechanism)
        power = power_on(claim, confidence=level_of_each, plan=plan)
        _check(claim)
        test = ClaimTest(claim, significance=1 - level_of_each)
        level_of_each = test.confidence_of_each
    curves: CurveFamily = GaussianCurves() if mechanism is None else MechanismCurves(mechanism)
    certified = epsilon_from_scores(values, coins, delta=delta, confidence=level_of_each, plan=plan)
    conclusion = _conclude(test, power, count_correct(values, coins, plan))
    return Verdict(
        conclusion=conclusion,
        sentence=_sentence(conclusion, certified, claimed_epsilon, power, mechanism),
        claimed_epsilon=claimed_epsilon,
        delta=delta,
        confidence=confidence,
        certified=certified,
        model_based=fdp_epsilon_from_scores(
            values, coins, delta=delta, confidence=level_of_each, plan=plan, curves=curves
        ),
        power=power,
    )


def _check(claim: Claim) -> None:
    """Refuses a claim about something else: the mechanism being refuted would not refute it."""
    _, claimed_epsilon, delta, mechanism = claim
    if mechanism is None:
        return
    if getattr(mechanism, "neighboring", None) == "replace_one":
        raise ValueError(
            "mechanism must be accounted for one record more or less, as the coins decide; its"
            " neighboring is replace_one. Account for it under add_or_remove_one."
        )
    accounted = mechanism.epsilon(delta)
    if not math.isclose(claimed_epsilon, accounted, rel_tol=_CLAIM_TOLERANCE):
        raise ValueError(
            f"claimed_epsilon must be the mechanism's, which is {accounted:.4g} at delta ="
            f" {delta:g}; got {claimed_epsilon:g}. For another claim, such as a total over several"
            " runs, leave the mechanism out."
        )


def _conclude(test: ClaimTest | None, power: Power | None, guesses: list[Guesses]) -> Conclusion:
    if test is None or power is None:
        return "no claim"
    if test.refutes(guesses):
        return "violation"
    return "consistent" if power.detection_rate >= _ENOUGH_DETECTION else "too weak to tell"


def _sentence(
    conclusion: Conclusion,
    certified: EpsilonBound,
    claimed_epsilon: float | None,
    power: Power | None,
    mechanism: Mechanism | None,
) -> str:
    found = f"The scores certify ε ≥ {certified.epsilon:.3g} at δ = {certified.delta:g}"
    if power is None:
        return f"{found}. No privacy is claimed."
    claim = f"the claimed ε = {claimed_epsilon:.4g}"
    if conclusion == "violation":
        return (
            f"{found} and refute {claim}. Training leaks more than the accountant was told. Do not"
            " rely on the claim before the reason is found."
        )
    detects = f"{100 * power.detection_rate:.0f} % of runs with half the noise"
    if conclusion == "consistent":
        return (
            f"{found}, and do not contradict {claim}. An ideal attack on as many records would"
            f" refute the claim in {detects}. This is no proof of privacy."
        )
    advice = "Use more canaries or records."
    if mechanism is None:
        advice = "Use more canaries or records, or give the mechanism, whose curve tells more."
    return (
        f"{found}, and do not contradict {claim}, but they hardly could: an ideal attack on as many"
        f" records would refute the claim in only {detects}. {advice}"
    )
