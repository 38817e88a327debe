"""Confidence intervals of AUC and of TPR at a fixed FPR.

All of them describe the attack on one trained model: they say what other records from the same two
populations would give. None covers training another model with the same recipe.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from dpjax.audit.membership.roc import checked_scores, share_below


def auc_interval(
    member_scores: ArrayLike, nonmember_scores: ArrayLike, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return an interval for the AUC of the populations that the scores were drawn from.

    DeLong, DeLong and Clarke-Pearson 1988, with the normal approximation taken on the logit scale,
    so that the ends stay inside [0, 1]. That approximation knows nothing of overlaps that a sample
    happens not to show, so near 0 and 1 the interval is widened to what holds exactly: all of
    k = min(M, N) disjoint pairs are ordered correctly with probability at most AUC^k, so a perfect
    sample cannot exclude any AUC above (α/2)^(1/k), nor can a less perfect one. If all scores are
    equal, the same argument on ties gives ½ ± ½ (1 − α^(1/k)). With a single record on either side
    no variance can be estimated and the answer is (0, 1).

    Args:
        member_scores: (M,) numbers, higher for members.
        nonmember_scores: (N,) numbers.
        confidence: 1 − α, between 0 and 1.

    Raises:
        TypeError, ValueError: as for `roc_curve`; ValueError for a confidence outside (0, 1).
    """
    members = checked_scores("member_scores", member_scores)
    nonmembers = checked_scores("nonmember_scores", nonmember_scores)
    alpha = 1 - checked_share("confidence", confidence)
    pairs = min(len(members), len(nonmembers))
    if pairs == 1:
        return 0.0, 1.0
    beaten, unbeaten = share_below(members, nonmembers), 1 - share_below(nonmembers, members)
    area = float(beaten.mean())
    variance = beaten.var(ddof=1) / len(members) + unbeaten.var(ddof=1) / len(nonmembers)
    if variance > 0:
        half_width = special.ndtri(1 - alpha / 2) * math.sqrt(variance) / (area * (1 - area))
        low, high = special.expit(special.logit(area) + half_width * np.array([-1, 1]))
    elif area in (0.0, 1.0):
        low = high = area
    else:
        most_untied = 1 - alpha ** (1 / pairs)
        low, high = (1 - most_untied) / 2, (1 + most_untied) / 2
    perfect = (alpha / 2) ** (1 / pairs)
    return min(float(low), perfect), max(float(high), 1 - perfect)


def tpr_interval(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    fpr_level: float,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return an interval for the TPR where the FPR of the population of non-members is `fpr_level`.

    It covers both sources of error: which members were seen, and that the threshold comes from a
    sample of non-members. Whatever the distributions, coverage is at least `confidence`. The FPR
    beyond the j-th largest of N non-member scores follows Beta(j, N − j + 1), stochastically less
    with ties. So one threshold is found whose FPR is at most the level with error probability α/4,
    another whose FPR is at least the level, also with α/4, and at each of them a bound of Clopper
    and Pearson for the TPR spends α/4 more. (Their interval at the measured threshold, taken as
    given, would cover as little as 40 % of the time at a nominal 95 %.) Few non-members make it
    wide, and below log(4/α) / fpr_level of them (about 440 for 1 %) the lower end is 0: then no
    threshold can be trusted to that level.

    Args:
        member_scores: (M,) numbers, higher for members.
        nonmember_scores: (N,) numbers.
        fpr_level: between 0 and 1.
        confidence: 1 − α, between 0 and 1.

    Raises:
        TypeError, ValueError: as for `roc_curve`; ValueError if a level or confidence is outside
            (0, 1).
    """
    members = checked_scores("member_scores", member_scores)
    nonmembers = checked_scores("nonmember_scores", nonmember_scores)
    level = checked_share("fpr_level", fpr_level)
    error = (1 - checked_share("confidence", confidence)) / 4
    falling = np.sort(nonmembers)[::-1]
    above = np.arange(len(falling))
    # The FPR beyond falling[j] exceeds the level exactly if at most j of N such draws do.
    strict = np.flatnonzero(special.bdtr(above, len(falling), level) <= error)
    loose = np.flatnonzero(special.bdtrc(above, len(falling), level) <= error)
    low, high = 0.0, 1.0
    if strict.size:
        caught = int((members > falling[strict[-1]]).sum())
        low, _ = binomial_interval(successes=caught, trials=len(members), confidence=1 - 2 * error)
    if loose.size:
        caught = int((members >= falling[loose[0]]).sum())
        _, high = binomial_interval(successes=caught, trials=len(members), confidence=1 - 2 * error)
    return low, high


def binomial_interval(
    *, successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the exact interval of Clopper and Pearson (1934) for a probability, α/2 on each side.

    Raises:
        ValueError: if not 0 ≤ successes ≤ trials with trials ≥ 1, or confidence is outside (0, 1).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"needs 0 ≤ successes ≤ trials ≥ 1; got {successes} of {trials}.")
    tail = (1 - checked_share("confidence", confidence)) / 2
    failures = trials - successes
    low = special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(low), float(high)


def num_above_threshold(num_nonmembers: int, fpr_level: float) -> int:
    """Return how many non-members may be called members: the largest k with k / N ≤ `fpr_level`."""
    # Compared as quotients: 0.29 * 100 is less than 29.
    shares = np.arange(num_nonmembers + 1) / num_nonmembers
    return int(np.searchsorted(shares, fpr_level, side="right")) - 1


def checked_share(name: str, value: float) -> float:
    """Return `value` if it lies strictly between 0 and 1, or raise ValueError."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1; got {value}.")
    return float(value)
