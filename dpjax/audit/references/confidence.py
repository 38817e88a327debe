"""The logit of a model's confidence: the score whose spread between shadows is about Gaussian."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpjax.audit.references.sides import checked_log_probs
from dpjax.audit.scores.class_scores import confidence_score

# The largest probability below one that float32 holds.
_LARGEST_LOG_PROB = float(np.log1p(-(2.0**-24)))


def classifier_confidence(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Returns φ = log p_y − log(1 − p_y) of each record's label y.

    The score of Carlini et al. 2022 ("Membership Inference Attacks From First Principles",
    arXiv:2112.03570, section IV), as `confidence_score`, for several models at once.

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
    values, classes = np.asarray(logits), np.asarray(labels)
    if values.ndim < 2 or classes.shape != values.shape[-2:-1]:
        raise ValueError(
            "logits and labels must have shapes (..., n, K) and (n,), got "
            f"{values.shape} and {classes.shape}"
        )
    lead = values.shape[:-1]
    every_label = np.broadcast_to(classes, lead).reshape(-1)
    return confidence_score(values.reshape(-1, values.shape[-1]), every_label).reshape(lead)


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
