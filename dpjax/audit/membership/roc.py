"""The empirical ROC curve of an attack: no smoothing, no convex hull, ties moved together."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RocCurve:
    """True and false positive rates of "score at least t" for falling thresholds t.

    Attributes:
        fpr: (K,) float64, share of non-members called members; rises from 0 to 1.
        tpr: (K,) float64, share of members called members; rises from 0 to 1.
        thresholds: (K,) float64, falling; the first, +inf, stands above every score. None in a
            curve that was read from a file: they are left out there, each being a record's score.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64] | None

    def tpr_at_fpr(self, level: float) -> float:
        """Return the largest TPR among the thresholds whose empirical FPR is at most `level`.

        Raises:
            ValueError: if `level` is not between 0 and 1.
        """
        if not 0 <= level <= 1:
            raise ValueError(f"the FPR level must lie between 0 and 1; got {level}.")
        return float(self.tpr[np.searchsorted(self.fpr, level, side="right") - 1])

    def thinned(self, max_points: int = 200) -> RocCurve:
        """Return at most `max_points` of the points, evenly along the curve and along log FPR.

        Points on a straight vertical or horizontal stretch go first: they carry nothing.
        """
        keep = np.flatnonzero(_is_corner(self.fpr, self.tpr))
        if len(keep) > max_points:
            fpr, length = self.fpr[keep], self.fpr[keep] + self.tpr[keep]
            smallest = fpr[fpr > 0].min()
            count = max_points // 2
            even = np.searchsorted(length, np.linspace(0, 2, max_points - count))
            low = np.searchsorted(fpr, np.geomspace(smallest, 1, count), side="right") - 1
            keep = keep[np.unique(np.concatenate([even, low]))]
        thresholds = None if self.thresholds is None else self.thresholds[keep]
        return RocCurve(fpr=self.fpr[keep], tpr=self.tpr[keep], thresholds=thresholds)


def roc_curve(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> RocCurve:
    """Return the plain empirical ROC of scores that are higher for members.

    Records with equal scores cross the threshold together. Between its points the curve is reached
    only by guessing at random; the area under straight lines between them is `auc`.

    Args:
        member_scores: (M,) numbers, M ≥ 1; infinities are allowed.
        nonmember_scores: (N,) numbers, N ≥ 1; infinities are allowed.

    Raises:
        TypeError: if the scores are not numbers.
        ValueError: if an array is empty, not one-dimensional or holds NaN.
    """
    members = np.sort(checked_scores("member_scores", member_scores))
    nonmembers = np.sort(checked_scores("nonmember_scores", nonmember_scores))
    thresholds = np.unique(np.concatenate([members, nonmembers]))[::-1]
    return RocCurve(
        fpr=np.append(0.0, _share_at_least(nonmembers, thresholds)),
        tpr=np.append(0.0, _share_at_least(members, thresholds)),
        thresholds=np.append(np.inf, thresholds),
    )


def auc(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> float:
    """Return P(member's score > non-member's score) + ½ P(equal), over all pairs.

    The Mann-Whitney statistic divided by the number of pairs; equals the area under the plain ROC.

    Args:
        member_scores: (M,) numbers.
        nonmember_scores: (N,) numbers.

    Raises:
        TypeError, ValueError: as for `roc_curve`.
    """
    members = checked_scores("member_scores", member_scores)
    nonmembers = checked_scores("nonmember_scores", nonmember_scores)
    return float(share_below(members, nonmembers).mean())


def share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each value (M,), the share of `others` (N,) below it, equal ones counted half."""
    others = np.sort(others)
    below = np.searchsorted(others, values, side="left")
    not_above = np.searchsorted(others, values, side="right")
    return (below + not_above) / (2 * len(others))


def checked_scores(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` as a non-empty (N,) float64 array without NaN, or raise."""
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a list or array of numbers: {error}") from error
    if scores.ndim != 1:
        raise ValueError(f"{name} must have one number per record; got shape {scores.shape}.")
    if not scores.size:
        raise ValueError(f"{name} is empty: an attack needs members and non-members.")
    if np.isnan(scores).any():
        count = int(np.isnan(scores).sum())
        raise ValueError(
            f"{name} holds NaN for {count} of {scores.size} records, which cannot be ranked."
            " Find out why before attacking: the training may have diverged."
        )
    return scores


def _share_at_least(
    rising: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    # One division of whole numbers, so that 3 of 300 is exactly the level 0.01.
    return (len(rising) - np.searchsorted(rising, thresholds)) / len(rising)


def _is_corner(fpr: NDArray[np.float64], tpr: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points are ends of the curve or not inside a vertical or horizontal stretch."""
    corner = np.ones(len(fpr), dtype=bool)
    for rate in (fpr, tpr):
        corner[1:-1] &= (rate[1:-1] != rate[:-2]) | (rate[1:-1] != rate[2:])
    return corner
