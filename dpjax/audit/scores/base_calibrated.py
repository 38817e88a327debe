"""Scores of texts that compare the tuned model with its base. All are higher for members."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpjax.audit.scores.token_statistics import (
    TokenStatistics,
    left_aligned,
    mean_over_targets,
    require_same_tokens,
    require_targets,
)

WBC_WINDOWS = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)


def ratio_score(tuned: TokenStatistics, base: TokenStatistics) -> NDArray[np.float64]:
    """Scores records by how much more probable tuning has made them.

    mean(ℓ − ℓ⁰), the logarithm of the ratio of likelihoods per token (Mireshghallah et al. 2022,
    arXiv:2203.03929).

    Args:
        tuned: statistics of N records under the tuned model.
        base: statistics of the same records under the model before tuning.

    Returns:
        (N,) float64, in nats per token.

    Raises:
        ValueError: the statistics are of different tokens, or a record has no target token.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> tokens, is_target = np.array([[0, 0]]), np.full((1, 2), True)
        >>> base = statistics_from_logits(np.zeros((1, 2, 2)), tokens, is_target)
        >>> logits = np.log([[[3.0, 1.0], [1.0, 3.0]]])
        >>> tuned = statistics_from_logits(logits, tokens, is_target)
        >>> ratio_score(tuned, base).round(6).tolist()
        [-0.143841]
    """
    return mean_over_targets(_rise(tuned, base), tuned.is_target)


def ez_score(
    tuned: TokenStatistics, base: TokenStatistics, *, smoothing: float = 0.1
) -> NDArray[np.float64]:
    """Scores records by how much probability rose where the tuned model is still wrong (EZ-MIA).

    With d = ℓ − ℓ⁰ and E the target tokens that the tuned model does not find most probable:
    (Σ_{E, d>0} d + s) / (Σ_{E, d<0} |d| + s). With s = 0 it is the score of EZ-MIA (Ilić et al.
    2026, arXiv:2601.12104), which divides by zero where every token of E rose. A record without an
    error has an empty E. All of its rising tokens count then, and none of its falling ones: a
    record that was learnt by heart scores highest, and the higher the more it rose.

    Args:
        tuned: statistics of N records under the tuned model.
        base: statistics of the same records under the model before tuning.
        smoothing: s, above 0, in nats. Shifts far below it count as none.

    Returns:
        (N,) float64, positive; 1 for a model that tuning has not changed.

    Raises:
        ValueError: the statistics are of different tokens, a record has no target token, or the
            smoothing is not positive.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> tokens, is_target = np.array([[0, 0]]), np.full((1, 2), True)
        >>> base = statistics_from_logits(np.zeros((1, 2, 2)), tokens, is_target)
        >>> logits = np.log([[[3.0, 1.0], [1.0, 3.0]]])
        >>> tuned = statistics_from_logits(logits, tokens, is_target)
        >>> ez_score(tuned, base).round(6).tolist()
        [0.12608]
    """
    if not (np.isfinite(smoothing) and smoothing > 0):
        raise ValueError(f"smoothing must be positive and finite, got {smoothing}.")
    rise = _rise(tuned, base)
    is_error = tuned.is_target & ~tuned.is_argmax
    is_perfect = ~np.asarray(is_error.any(axis=1))
    counts_up = np.where(is_perfect[:, None], tuned.is_target, is_error)
    up = np.where(counts_up & (rise > 0), rise, 0.0).sum(axis=1)
    down = np.where(is_error & (rise < 0), -rise, 0.0).sum(axis=1)
    return np.asarray((up + smoothing) / (down + smoothing))


def wbc_score(
    tuned: TokenStatistics, base: TokenStatistics, *, windows: Sequence[int] = WBC_WINDOWS
) -> NDArray[np.float64]:
    """Scores records by the share of windows that tuning has made more probable (WBC).

    For each length w the share of all windows of w successive target tokens in which
    Σ ℓ > Σ ℓ⁰, then the mean over the lengths (Chen et al. 2026, arXiv:2601.02751). Lengths above a
    record's number of target tokens are left out for it; if all are, the whole record is the one
    window.

    Args:
        tuned: statistics of N records under the tuned model.
        base: statistics of the same records under the model before tuning.
        windows: different lengths in tokens, each at least 1.

    Returns:
        (N,) float64 between 0 and 1. Scores are often equal: a record has few windows.

    Raises:
        ValueError: the statistics are of different tokens, a record has no target token, or the
            lengths are none, below 1 or given twice.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> tokens, is_target = np.array([[0, 0]]), np.full((1, 2), True)
        >>> base = statistics_from_logits(np.zeros((1, 2, 2)), tokens, is_target)
        >>> logits = np.log([[[3.0, 1.0], [1.0, 3.0]]])
        >>> tuned = statistics_from_logits(logits, tokens, is_target)
        >>> wbc_score(tuned, base, windows=(1, 2)).tolist()
        [0.25]
    """
    if not windows or min(windows) < 1 or len(set(windows)) < len(windows):
        raise ValueError(f"windows must be different lengths of at least 1, got {windows!r}.")
    rise = left_aligned(_rise(tuned, base), tuned.is_target, 0.0)
    counts = tuned.num_targets
    sums = np.pad(np.cumsum(rise, axis=1), ((0, 0), (1, 0)))
    total = np.zeros(len(tuned))
    num_lengths = np.zeros(len(tuned))
    for length in windows:
        if length > rise.shape[1]:
            continue
        risen = sums[:, length:] > sums[:, :-length]
        num_windows = np.maximum(counts - length + 1, 0)
        is_window = np.arange(risen.shape[1]) < num_windows[:, None]
        total += (risen & is_window).sum(axis=1) / np.maximum(num_windows, 1)
        num_lengths += num_windows > 0
    whole = (sums[:, -1] > 0).astype(np.float64)
    return np.where(num_lengths > 0, total / np.maximum(num_lengths, 1), whole)


def _rise(tuned: TokenStatistics, base: TokenStatistics) -> NDArray[np.float64]:
    """ℓ − ℓ⁰, (N, T), 0 where there is no target."""
    require_same_tokens(tuned, base)
    require_targets(tuned.is_target)
    difference = tuned.log_probs.astype(np.float64) - base.log_probs.astype(np.float64)
    return np.where(tuned.is_target, difference, 0.0)
