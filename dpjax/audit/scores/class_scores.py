"""Scores of classified records, from logits and labels. All are higher for members."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dpjax.data import TextDataset, by_length, microbatches, trim_padding
from dpjax.models import SequenceClassifier


def class_logits(
    model: SequenceClassifier, records: TextDataset, *, batch_size: int = 64
) -> NDArray[np.float32]:
    """Computes a classifier's logits of every record, (N, K) float32, in one forward pass.

    Args:
        model: a classifier with K labels.
        records: N encoded records.
        batch_size: records at a time; batches have few static shapes.

    Raises:
        TypeError: the model does not classify whole texts.
        ValueError: there is no record.
    """
    if not isinstance(model, SequenceClassifier):
        raise TypeError(f"model must be a SequenceClassifier, got a {type(model).__name__}.")
    if not len(records):
        raise ValueError("records must hold at least 1 record, got 0.")
    graphdef, state = nnx.split(model)

    @jax.jit
    def forward(state: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(ids, mask)

    logits = np.empty((len(records), model.num_labels), np.float32)
    ordered = by_length(records, np.arange(len(records)))
    for rows, is_real in microbatches(ordered, min(batch_size, len(records))):
        batch = trim_padding(records.take(rows))
        part = np.asarray(forward(state, batch.input_ids, batch.attention_mask))
        logits[rows[is_real]] = part[is_real]
    return logits


def class_loss_score(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Scores records by the log-probability of their label, −loss.

    log p_y (Yeom, Giacomelli, Fredrikson and Jha 2018, arXiv:1709.01604).

    Args:
        logits: (N, K) floating point, K ≥ 2.
        labels: (N,) integers from 0 to K − 1.

    Returns:
        (N,) float64, in nats, at most 0.

    Raises:
        TypeError: labels are not integers.
        ValueError: shapes do not fit, a logit is not finite, or a label is out of range.

    Example:
        >>> class_loss_score([[0.0, 0.0]], [1]).round(6).tolist()
        [-0.693147]
    """
    of_label, others = _split_logits(logits, labels)
    largest_sum = np.logaddexp(of_label, special.logsumexp(others, axis=1))
    return np.asarray(of_label - largest_sum)


def margin_score(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Scores records by how far the logit of their label is above the largest other.

    z_y − max_{k≠y} z_k (the hinge loss of Carlini et al. 2022, arXiv:2112.03570).

    Args:
        logits: (N, K) floating point, K ≥ 2.
        labels: (N,) integers from 0 to K − 1.

    Returns:
        (N,) float64, without a unit; negative where another label is more probable.

    Raises:
        TypeError, ValueError: as for `class_loss_score`.

    Example:
        >>> margin_score([[1.0, 4.0, 2.0]], [1]).tolist()
        [2.0]
    """
    of_label, others = _split_logits(logits, labels)
    return np.asarray(of_label - others.max(axis=1))


def confidence_score(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Scores records by the logit of their label's probability (scaled confidence).

    log(p_y / (1 − p_y)) = z_y − log Σ_{k≠y} exp z_k, which loses no digits where p_y is near 1
    (Carlini et al. 2022, arXiv:2112.03570).

    Args:
        logits: (N, K) floating point, K ≥ 2.
        labels: (N,) integers from 0 to K − 1.

    Returns:
        (N,) float64, in nats.

    Raises:
        TypeError, ValueError: as for `class_loss_score`.

    Example:
        >>> confidence_score([[100.0, 0.0]], [0]).tolist()
        [100.0]
    """
    of_label, others = _split_logits(logits, labels)
    return np.asarray(of_label - special.logsumexp(others, axis=1))


def _split_logits(
    logits: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The logits of the labels (N,), and of all other classes (N, K − 1)."""
    values, classes = np.asarray(logits, np.float64), np.asarray(labels)
    if values.ndim != 2 or not len(values) or values.shape[1] < 2:
        raise ValueError(f"logits must have shape (N, K) with N ≥ 1, K ≥ 2, got {values.shape}.")
    if not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {classes.dtype}.")
    if classes.shape != values.shape[:1]:
        raise ValueError(f"labels must have shape ({len(values)},), got {classes.shape}.")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ValueError(
            f"logits must be finite, got another value for record {row}. Find out why before"
            " attacking: the training may have diverged."
        )
    num_classes = values.shape[1]
    if ((classes < 0) | (classes >= num_classes)).any():
        raise ValueError(
            f"labels must be from 0 to {num_classes - 1}, got {classes.min()} to {classes.max()}."
        )
    is_label = np.arange(num_classes) == classes[:, None]
    return values[is_label], values[~is_label].reshape(len(values), num_classes - 1)
