"""From the scores of independent runs to bounds on ε and a verdict, at thresholds fixed before."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from dpjax_accounting import Mechanism, trade_off
from scipy import special

from dpjax.audit import (
    AttackCounts,
    EpsilonBound,
    binomial_interval,
    clopper_pearson_epsilon,
    gaussian_epsilon,
    refutes_trade_off,
)

# Of all procedures together, right code is called a violation in less than 1 % of audits.
_CONFIDENCE_OF_VERDICT = 1 - 1e-4
# Wide limits: the best of many thresholds is else one in the tails that was lucky.
_CONFIDENCE_OF_CHOICE = 1 - 1e-4
_NUM_THRESHOLDS = 64
# One run in so many chooses the thresholds.
_CHOOSES = 5


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the runs of one procedure say.

    Attributes:
        claimed_epsilon: the accountant's.
        certified: the bound of Clopper and Pearson.
        gaussian: the bound of a Gaussian trade-off function.
        is_violation: the claimed mechanism's own trade-off function is refuted.
    """

    claimed_epsilon: float
    certified: EpsilonBound
    gaussian: EpsilonBound
    is_violation: bool


def judge_runs(
    scores: np.ndarray, included: np.ndarray, *, claim: Mechanism, delta: float
) -> Judgement:
    """Judges independent runs: a fifth of them chooses the thresholds, the others are counted.

    Each of the two bounds and the verdict has a threshold of its own.

    Args:
        scores: `(R,)`, higher for runs with the canary.
        included: `(R,)` bool, the coins.
        claim: what training is claimed to be.
        delta: of the bounds.
    """
    chooses = np.arange(len(scores)) % _CHOOSES == 0
    choosing = scores[chooses], included[chooses]
    counted = scores[~chooses], included[~chooses]

    def counts(goodness: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> AttackCounts:
        return _counts(*counted, _best_threshold(*choosing, goodness))

    return Judgement(
        claimed_epsilon=claim.epsilon(delta),
        certified=clopper_pearson_epsilon(counts(_log_ratio), delta=delta),
        gaussian=gaussian_epsilon(counts(_shift), delta=delta),
        is_violation=refutes_trade_off(
            claim,
            [counts(lambda tpr, fpr: _shift(tpr, trade_off(claim, fpr)))],
            confidence=_CONFIDENCE_OF_VERDICT,
        ),
    )


def _log_ratio(tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(tpr / fpr), np.log((1 - fpr) / (1 - tpr)))


def _shift(tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    return special.ndtri(tpr) - special.ndtri(fpr)


def _best_threshold(scores, included, goodness) -> float:
    """The threshold whose limits of TPR and FPR are the best evidence, among quantiles."""
    values = np.unique(scores)
    places = np.linspace(0, len(values) - 2, min(_NUM_THRESHOLDS, len(values) - 1)).astype(int)
    thresholds = (values[places] + values[places + 1]) / 2
    limits = [_limits(_counts(scores, included, threshold)) for threshold in thresholds]
    return float(thresholds[np.argmax(goodness(*np.array(limits).T))])


def _limits(counts: AttackCounts) -> tuple[float, float]:
    interval = functools.partial(binomial_interval, confidence=_CONFIDENCE_OF_CHOICE)
    low, _ = interval(successes=counts.true_positives, trials=counts.num_positives)
    _, high = interval(successes=counts.false_positives, trials=counts.num_negatives)
    return low, high


def _counts(scores: np.ndarray, included: np.ndarray, threshold: float) -> AttackCounts:
    called = scores > threshold
    return AttackCounts(
        true_positives=int((called & included).sum()),
        num_positives=int(included.sum()),
        false_positives=int((called & ~included).sum()),
        num_negatives=int((~included).sum()),
    )
