"""RMIA: a record's likelihood ratio, compared with the ratios of population records."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from dpjax.audit.references.sides import checked_log_probs, split_sides


def rmia_scores(
    target_log_probs: ArrayLike,
    shadow_log_probs: ArrayLike,
    membership: ArrayLike,
    population_target_log_probs: ArrayLike,
    population_shadow_log_probs: ArrayLike,
    population_membership: ArrayLike | None = None,
    *,
    offline: bool = True,
    a: float = 0.3,
    gamma: float = 1.0,
) -> NDArray[np.float64]:
    """Returns the share of population records z over which a record x dominates.

    Zarifzadeh, Liu and Shokri 2024 ("Low-Cost High-Power Membership Inference Attacks",
    arXiv:2312.03262): the score of x is P_z[ratio(x) / ratio(z) ≥ γ] (section 3) with
    ratio(x) = p(x | θ) / p(x), θ the attacked model, as `rmia_log_ratios` has it. One to four
    shadow models are enough to be useful.

    Args:
        target_log_probs: (n,) log p(x | θ) of the records in nats, at most 0: of a classifier that
            of the label, of a language model the mean over tokens.
        shadow_log_probs: (k, n) the same under k shadow models.
        membership: (k, n) bool, True where a shadow was trained on a record.
        population_target_log_probs: (m,) log p(z | θ) of records from the same source that the
            attacked model was not trained on.
        population_shadow_log_probs: (k, m) the same under the k shadow models.
        population_membership: (k, m) bool; None: no shadow was trained on a population record.
        offline: as for `rmia_log_ratios`; population records are always compared offline where no
            membership is given.
        a: as for `rmia_log_ratios`.
        gamma: γ ≥ 1, how far x must dominate.

    Returns:
        (n,) float64 multiples of 1/m in [0, 1], higher for members, often tied; descriptive, as
        `lira_scores`.

    Raises:
        TypeError: log-probabilities are not numbers, or membership is not boolean.
        ValueError: as `rmia_log_ratios`; the numbers of shadows differ; γ is below 1 or infinite.

    Example:
        >>> log = lambda *probabilities: np.log([probabilities])
        >>> rmia_scores(
        ...     log(0.9)[0], log(0.4), [[False]], log(0.8, 0.6, 0.3)[0], log(0.75, 0.6, 0.15),
        ...     gamma=2.0,
        ... ).round(6).tolist()
        [0.333333]
    """
    if not 1 <= gamma < np.inf:
        raise ValueError(f"gamma must be at least 1 and finite, got {gamma}")
    population_offline = offline or population_membership is None
    if population_membership is None:
        population_membership = np.zeros(np.shape(population_shadow_log_probs), bool)
    ratios = rmia_log_ratios(target_log_probs, shadow_log_probs, membership, offline=offline, a=a)
    population = rmia_log_ratios(
        population_target_log_probs,
        population_shadow_log_probs,
        population_membership,
        offline=population_offline,
        a=a,
    )
    if np.shape(shadow_log_probs)[0] != np.shape(population_shadow_log_probs)[0]:
        raise ValueError(
            "population_shadow_log_probs must come from the same shadows as shadow_log_probs, got "
            f"{np.shape(population_shadow_log_probs)[0]} and {np.shape(shadow_log_probs)[0]}"
        )
    dominated = np.searchsorted(np.sort(population), ratios - np.log(gamma), side="right")
    return dominated / population.size


def rmia_log_ratios(
    target_log_probs: ArrayLike,
    shadow_log_probs: ArrayLike,
    membership: ArrayLike,
    *,
    offline: bool = True,
    a: float = 0.3,
) -> NDArray[np.float64]:
    """Returns log p(x | θ) − log p(x), how much better the attacked model knows a record.

    Online p(x) = ½ (mean of p over the shadows that trained on x + mean over the others), as if
    half of all models had. Offline only the latter mean is known, and p(x) = ½ ((1 + a) mean_out +
    1 − a) stands for both (Zarifzadeh et al. 2024, arXiv:2312.03262).

    Args:
        target_log_probs: (n,) log p(x | θ) of the records in nats, at most 0.
        shadow_log_probs: (k, n) the same under k shadow models.
        membership: (k, n) bool, True where a shadow was trained on a record.
        offline: use only the shadows that left the record out.
        a: in [0, 1], how p_in is guessed from p_out: 1 takes them to be equal, 0 takes p_in for 1.
            Used offline only. The best value is found by attacking a shadow model, not the target.

    Returns:
        (n,) float64, higher for members.

    Raises:
        TypeError: log-probabilities are not numbers, or membership is not boolean.
        ValueError: shapes do not fit; a log-probability is positive, NaN or infinite; a record was
            left out by no shadow or, online, in none; or `a` lies outside [0, 1].

    Example:
        >>> ratio = np.exp(rmia_log_ratios(np.log([0.9]), np.log([[0.4]]), [[False]], a=0.3))
        >>> ratio.round(6).tolist()
        [1.47541]
    """
    if not 0 <= a <= 1:
        raise ValueError(f"a must lie in [0, 1], got {a}")
    targets, inside, outside = split_sides(
        checked_log_probs("target_log_probs", target_log_probs, 1),
        checked_log_probs("shadow_log_probs", shadow_log_probs, 2),
        membership,
        needs_in=not offline,
        kind="log_probs",
    )
    log_out = _log_mean(outside.scores, outside.counts_here)
    if not offline:
        log_in = _log_mean(inside.scores, inside.counts_here)
        return targets - (np.logaddexp(log_in, log_out) - np.log(2))
    scaled = log_out + np.log1p(a)
    log_mean = scaled if a == 1 else np.logaddexp(scaled, np.log1p(-a))
    return targets - (log_mean - np.log(2))


def _log_mean(
    log_probs: NDArray[np.float64], counts_here: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The logarithm of each record's mean probability over some of the shadows, (n,)."""
    total = logsumexp(np.where(counts_here, log_probs, -np.inf), axis=0)
    return total - np.log(np.sum(counts_here, axis=0))
