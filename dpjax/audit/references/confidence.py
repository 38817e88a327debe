"""The logit of a model's confidence: the score whose spread between shadows is about Gaussian."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from dpjax.audit.references.sides import checked_log_probs, checked_numbers

# The largest probability below one that float32 holds.
_LARGEST_LOG_PROB = float(np.log1p(-(2.0**-24)))


def classifier_confidence(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Returns φ = log p_y − log(1 − p_y) of each record's label y.

    Carlini et al. 2022 ("Membership Inference Attacks From First Principles", arXiv:2112.03570,
    section IV). Computed as z_y − log Σ_{c ≠ y} exp z_c from the logits z: neither p_y nor
    1 − p_y is formed, hence nothing is lost where p_y is close to 0 or 1.

    Args:
        logits: (..., n, K) finite numbers, K ≥ 2 classes; leading axes are those of shadows.
        labels: (n,) integers in [0, K).

    Returns:
        (..., n) float64, higher for members.

    Raises:
        TypeError: logits are not numbers, or labels not integers.
        ValueError: shapes do not fit, a logit is not finite, or a label is none of the classes.

    Example:
        >>> classifier_confidence([[2.0, 0.0], [60.0, 0.0]], [0, 1]).tolist()
        [2.0, -60.0]
    """
    numbers = checked_numbers("logits", logits, max(2, np.ndim(logits)))
    classes = np.asarray(labels)
    num_records, num_classes = numbers.shape[-2:]
    if not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {classes.dtype}")
    if classes.shape != (num_records,):
        raise ValueError(
            f"labels must have shape ({num_records},), one for each record of logits "
            f"{numbers.shape}, got {classes.shape}"
        )
    if num_classes < 2:
        raise ValueError("logits must have at least two classes on their last axis, got one")
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes}), got {classes.min()} to {classes.max()}"
        )
    is_label = np.arange(num_classes) == classes[:, None]
    others = logsumexp(np.where(is_label, -np.inf, numbers), axis=-1)
    return np.sum(np.where(is_label, numbers, 0.0), axis=-1) - others


def language_confidence(mean_log_probs: ArrayLike) -> NDArray[np.float64]:
    """Returns φ = log p − log(1 − p) with p = exp(mean log-probability of a record's tokens).

    The confidence of Carlini et al. 2022 (arXiv:2112.03570, section IV) with p the geometric
    mean of the tokens' probabilities, which does not depend on the record's length as their product
    does. Computed as m − log(−expm1(m)). A probability within 2⁻²⁴ of one, the resolution of
    float32, counts as 1 − 2⁻²⁴.

    Args:
        mean_log_probs: array of any shape, in nats and at most 0: minus the mean loss of the tokens
            that count.

    Returns:
        float64, the same shape, higher for members.

    Raises:
        TypeError: the values are not numbers.
        ValueError: there is none, one is not finite, or one is positive.

    Example:
        >>> language_confidence([-0.1, -1e-9]).round(6).tolist()
        [2.252168, 16.635532]
    """
    log_probs = checked_log_probs("mean_log_probs", mean_log_probs, max(1, np.ndim(mean_log_probs)))
    log_probs = np.minimum(log_probs, _LARGEST_LOG_PROB)
    return log_probs - np.log(-np.expm1(log_probs))
