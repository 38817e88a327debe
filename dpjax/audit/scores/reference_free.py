"""Scores of texts that need the tuned model alone. All are higher for members."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpjax.audit.scores.token_statistics import (
    TokenStatistics,
    left_aligned,
    mean_over_targets,
    require_targets,
)

# Below it float32 does not tell log p from its mean over the vocabulary.
_LEAST_DEVIATION = 1e-4


def loss_score(tuned: TokenStatistics) -> NDArray[np.float64]:
    """Scores records by the mean log-probability of their target tokens, −loss.

    mean ℓ (Yeom, Giacomelli, Fredrikson and Jha 2018, arXiv:1709.01604).

    Args:
        tuned: statistics of N records under the tuned model.

    Returns:
        (N,) float64, in nats, at most 0.

    Raises:
        ValueError: a record has no target token.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> logits = np.log([[[3.0, 1.0], [1.0, 1.0]]])
        >>> tuned = statistics_from_logits(logits, np.array([[0, 1]]), np.full((1, 2), True))
        >>> np.exp(2 * loss_score(tuned)).round(6).tolist()
        [0.375]
    """
    return mean_over_targets(tuned.log_probs, tuned.is_target)


def zlib_score(tuned: TokenStatistics, texts: Sequence[str]) -> NDArray[np.float64]:
    """Scores records by mean log-probability per byte of the compressed text.

    mean ℓ / |zlib(text)| (Carlini et al. 2021, arXiv:2012.07805, section 5.2).

    Args:
        tuned: statistics of N records under the tuned model.
        texts: N strings, the text of the target tokens.

    Returns:
        (N,) float64, in nats per byte, at most 0.

    Raises:
        ValueError: there is not one text for every record, or a record has no target token.
    """
    if len(texts) != len(tuned):
        raise ValueError(f"texts must be {len(tuned)}, one for each record, got {len(texts)}.")
    return np.asarray(loss_score(tuned) / [compressed_bytes(text) for text in texts])


def compressed_bytes(text: str) -> int:
    """Returns the length in bytes of the text in UTF-8, compressed by zlib at its default level.

    The number depends a little on the zlib that Python was built with.

    Args:
        text: any string.

    Example:
        >>> compressed_bytes("a" * 1000) < compressed_bytes("The quick brown fox jumps.")
        True
    """
    return len(zlib.compress(text.encode("utf-8")))


def lowercase_score(tuned: TokenStatistics, lowercase: TokenStatistics) -> NDArray[np.float64]:
    """Scores records by how much less probable they become in lower case.

    mean ℓ(x) − mean ℓ(lower(x)), the logarithm of the ratio of perplexities (Carlini et al. 2021,
    arXiv:2012.07805, section 5.2). 0 for a text without capital letters.

    Args:
        tuned: statistics of N records under the tuned model.
        lowercase: statistics of the same records in lower case under the same model; the tokens
            may be others.

    Returns:
        (N,) float64, in nats.

    Raises:
        ValueError: the numbers of records differ, or a record has no target token.
    """
    if len(lowercase) != len(tuned):
        raise ValueError(f"lowercase must be of {len(tuned)} records, got {len(lowercase)}.")
    return loss_score(tuned) - loss_score(lowercase)


def min_k_score(tuned: TokenStatistics, *, share: float = 0.2) -> NDArray[np.float64]:
    """Scores records by the mean log-probability of their least probable tokens (Min-K %).

    The mean of the max(1, ⌊share · n⌋) lowest of n target tokens (Shi et al. 2024,
    arXiv:2310.16789).

    Args:
        tuned: statistics of N records under the tuned model.
        share: of the tokens, above 0 and at most 1.

    Returns:
        (N,) float64, in nats, at most 0.

    Raises:
        ValueError: the share is outside its range, or a record has no target token.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> logits = np.log([[[3.0, 1.0], [1.0, 1.0]]])
        >>> tuned = statistics_from_logits(logits, np.array([[0, 1]]), np.full((1, 2), True))
        >>> np.exp(min_k_score(tuned)).round(6).tolist()
        [0.5]
    """
    return _mean_of_lowest(tuned.log_probs, tuned.is_target, share)


def min_k_plus_score(tuned: TokenStatistics, *, share: float = 0.2) -> NDArray[np.float64]:
    """Scores records by their least probable tokens, standardised over the vocabulary (Min-K %++).

    z = (ℓ − μ) / σ with μ = Σ p log p and σ² = Σ p (log p)² − μ², then the mean of the
    max(1, ⌊share · n⌋) lowest (Zhang et al. 2024, arXiv:2404.02936). A σ below
    1e-4, where float32 does not tell ℓ from μ, counts as 1e-4: z is 0 if all tokens are equally
    probable.

    Args:
        tuned: statistics of N records under the tuned model.
        share: of the tokens, above 0 and at most 1.

    Returns:
        (N,) float64, in standard deviations.

    Raises:
        ValueError: the share is outside its range, or a record has no target token.
    """
    deviation = np.sqrt(np.where(tuned.is_target, tuned.vocab_variance, 1.0).astype(np.float64))
    distance = np.where(tuned.is_target, tuned.log_probs.astype(np.float64) - tuned.vocab_mean, 0.0)
    standardised = distance / np.maximum(deviation, _LEAST_DEVIATION)
    return _mean_of_lowest(standardised, tuned.is_target, share)


def neighbourhood_score(tuned: TokenStatistics, neighbours: ArrayLike) -> NDArray[np.float64]:
    """Scores records by how much more probable they are than texts beside them.

    mean ℓ(x) − the mean over the n neighbours x' of mean ℓ(x') (Mattern et al. 2023,
    arXiv:2305.18462). `neighbour_log_probs` makes neighbours by changing tokens.

    Args:
        tuned: statistics of N records under the tuned model.
        neighbours: (N, n) mean log-probabilities of each record's neighbours under the same model.

    Returns:
        (N,) float64, in nats.

    Raises:
        ValueError: the shape is not (N, n) with n ≥ 1, a number is not finite, or a record has no
            target token.
    """
    values = np.asarray(neighbours, np.float64)
    if values.ndim != 2 or len(values) != len(tuned) or not values.shape[1]:
        raise ValueError(
            f"neighbours must have shape ({len(tuned)}, n) with n ≥ 1, got {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError("neighbours must be finite numbers, got NaN or an infinity.")
    return np.asarray(loss_score(tuned) - values.mean(axis=1))


def _mean_of_lowest(
    values: NDArray[np.floating], is_target: NDArray[np.bool_], share: float
) -> NDArray[np.float64]:
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}.")
    require_targets(is_target)
    # In floating point 0.29 * 100 is less than 29.
    counts = [max(1, math.floor(share * count + 1e-9)) for count in is_target.sum(axis=1)]
    rising = np.sort(left_aligned(values, is_target, np.inf), axis=1)
    is_kept = np.arange(rising.shape[1]) < np.array(counts)[:, None]
    return mean_over_targets(np.where(is_kept, rising, 0.0), is_kept)
