"""LiRA: the likelihood ratio of a record's score with Gaussians fitted to shadow models."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpjax.audit.references.sides import Side, split_sides

Variance = Literal["auto", "record", "pooled"]
Center = Literal["mean", "median"]

# Carlini et al. 2022: with fewer shadows, one variance for all records does better.
_SHADOWS_FOR_A_VARIANCE = 64


def lira_scores(
    target_scores: ArrayLike,
    shadow_scores: ArrayLike,
    membership: ArrayLike,
    *,
    offline: bool = False,
    variance: Variance = "auto",
    center: Center = "mean",
) -> NDArray[np.float64]:
    """Returns how much better a record's score fits the shadows that trained on it.

    Carlini et al. 2022 ("Membership Inference Attacks From First Principles", arXiv:2112.03570).
    Online (algorithm 1): Λ = log N(φ; μ_in, σ_in²) − log N(φ; μ_out, σ_out²). Offline (section
    IV) z = (φ − μ_out) / σ_out, of which the paper takes Φ(z): the order is the same, but Φ is 1
    in floating-point from z = 8.3 on and would tie the most exposed records.

    The numbers are descriptive: `score_attack` makes rates and intervals of them, and the guesses
    that they order may enter a certified bound if membership of the target was drawn by fair coins.

    Args:
        target_scores: (n,) scores φ under the attacked model, higher for members, best those of
            `classifier_confidence` or `language_confidence`.
        shadow_scores: (k, n) scores of the same records under k shadow models.
        membership: (k, n) bool, True where a shadow was trained on a record. Records may have
            unequal numbers of shadows on both sides.
        offline: use only the shadows that left the record out.
        variance: "record" fits one to each record, its mean squared deviation; "pooled" one to
            all, as `Side.pooled_variance`; "auto" is "record" from 64 shadows on.
        center: mean or median of a record's shadow scores, the place of the Gaussian.

    Returns:
        (n,) float64, higher for members.

    Raises:
        TypeError: scores are not numbers, or membership is not boolean.
        ValueError: shapes do not fit; a score is NaN or infinite; a record was left out by no
            shadow or, online, in none; a variance cannot be fitted or is zero; an option is
            unknown.

    Example:
        >>> shadows = [[2.0], [2.4], [1.9], [2.2], [0.5], [0.9], [0.1], [0.7]]
        >>> trained_on_it = [[True]] * 4 + [[False]] * 4
        >>> lira_scores([1.6], shadows, trained_on_it, variance="record").round(6).tolist()
        [2.994764]
        >>> lira_scores(
        ...     [1.6], shadows, trained_on_it, variance="record", offline=True
        ... ).round(6).tolist()
        [3.549648]
    """
    if variance not in get_args(Variance):
        raise ValueError(f"variance must be one of {get_args(Variance)}, got {variance!r}")
    if center not in get_args(Center):
        raise ValueError(f"center must be one of {get_args(Center)}, got {center!r}")
    targets, inside, outside = split_sides(
        target_scores, shadow_scores, membership, needs_in=not offline
    )
    if variance == "auto":
        enough = len(inside.scores) >= _SHADOWS_FOR_A_VARIANCE
        variance = "record" if enough else "pooled"
    z_out, log_out = _fit(targets, outside, "out", variance, center)
    if offline:
        return z_out
    _, log_in = _fit(targets, inside, "in", variance, center)
    return log_in - log_out


def _fit(
    targets: NDArray[np.float64], side: Side, name: str, variance: Variance, center: Center
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standardised scores and log-densities, (n,) each, without the constant −½ log 2π."""
    if variance == "pooled":
        sigma = np.full(targets.shape, np.sqrt(side.pooled_variance(name)))
    else:
        sigma = np.sqrt(side.sum_of_squares / side.number)
        constant = np.flatnonzero(sigma == 0.0)
        if constant.size:
            raise ValueError(
                f"shadow_scores must vary between the {name} shadows of each record, got a "
                f"variance of 0 for record {constant[0]}, which has {side.number[constant[0]]} of "
                f"them, and {constant.size} such records. Take variance='pooled'"
            )
    z = (targets - (side.mean if center == "mean" else side.median)) / sigma
    return z, -(z**2) / 2 - np.log(sigma)
