"""How much better an attack does on one model than on another, on the same records."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dpjax.audit import auc, auc_interval


def auc_difference(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    other_member_scores: ArrayLike,
    other_nonmember_scores: ArrayLike,
    *,
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """Returns AUC − AUC of the other model, and an interval for it.

    DeLong, DeLong and Clarke-Pearson 1988, equation 5: both models score the same records, so the
    variance is that of the differences of their placements. Where these do not vary, as where both
    models tell all records apart, that estimate is 0 and no interval; then each AUC gets an
    `auc_interval` with half of the error, and the difference lies between their ends.

    Args:
        member_scores: `(M,)` of the model, higher for members.
        nonmember_scores: `(N,)` of the model.
        other_member_scores: `(M,)` of the other model, of the same records in the same order.
        other_nonmember_scores: `(N,)` likewise.
        confidence: of the interval, above 0 and below 1.

    Raises:
        TypeError, ValueError: as for `dpjax.audit.auc_interval`; ValueError if the models have not
            scored equally many records.

    Example:
        >>> difference, (low, high) = auc_difference(
        ...     [2.0, 3.0, 1.5], [0.0, 1.0, 2.5], [0.5, 1.0, 0.2], [0.0, 1.0, 2.5]
        ... )
        >>> round(difference, 4), low < difference < high
        (0.3889, True)
    """
    areas = [
        auc(member_scores, nonmember_scores),
        auc(other_member_scores, other_nonmember_scores),
    ]
    members = np.asarray([member_scores, other_member_scores], np.float64)
    nonmembers = np.asarray([nonmember_scores, other_nonmember_scores], np.float64)
    difference = areas[0] - areas[1]
    variance = 0.0
    if min(members.shape[1], nonmembers.shape[1]) > 1:
        beaten = _placements(members[0], nonmembers[0]) - _placements(members[1], nonmembers[1])
        unbeaten = _placements(nonmembers[1], members[1]) - _placements(nonmembers[0], members[0])
        variance = float(beaten.var(ddof=1) / len(beaten) + unbeaten.var(ddof=1) / len(unbeaten))
    if variance > 0:
        half = float(special.ndtri((1 + confidence) / 2)) * math.sqrt(variance)
        return difference, (max(-1.0, difference - half), min(1.0, difference + half))
    each = (1 + confidence) / 2
    low, high = auc_interval(member_scores, nonmember_scores, confidence=each)
    other_low, other_high = auc_interval(
        other_member_scores, other_nonmember_scores, confidence=each
    )
    return difference, (low - other_high, high - other_low)


def _placements(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each value the share of others below it, equal ones counted half."""
    others = np.sort(others)
    below = np.searchsorted(others, values, side="left")
    not_above = np.searchsorted(others, values, side="right")
    return np.asarray((below + not_above) / (2 * len(others)))
