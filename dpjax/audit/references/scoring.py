"""What every shadow makes of every record, in one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dpjax.audit.references.mapping import Mapping, choose_mapping, map_shadows
from dpjax.basics.typing import PyTree


def score_shadows(
    score: Callable[[PyTree, Any, PyTree], PyTree],
    trainable: PyTree,
    frozen: PyTree,
    records: PyTree,
    *,
    batch_size: int = 64,
    mapping: Mapping = "auto",
) -> PyTree:
    """Scores all records under all shadows in one compiled program.

    Let `score` return the logits of a classifier for `classifier_confidence`, the mean
    log-probability of a language model's tokens for `language_confidence` and `rmia_scores`.

    Args:
        score: of one record, `(trainable, record, frozen) -> array`, or a pytree of arrays.
        trainable: trained parameters, every leaf with a leading axis of k shadows. For one model,
            such as the attacked one, give every leaf an axis of length 1.
        frozen: the parameters that all share.
        records: n encoded records, a pytree of arrays (n, ...).
        batch_size: how many records are processed at a time, at least 1.
        mapping: as for `train_shadows`.

    Returns:
        What `score` returns, as NumPy arrays with leading axes (k, n).

    Raises:
        ValueError: `batch_size` is not positive, or the mapping is unknown.

    Example:
        >>> score_shadows(
        ...     lambda trainable, x, frozen: trainable * x + frozen,
        ...     np.array([1.0, 10.0]),
        ...     np.array(0.5),
        ...     np.array([1.0, 2.0, 3.0]),
        ... ).tolist()
        [[1.5, 2.5, 3.5], [10.5, 20.5, 30.5]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def score_all(single: PyTree, frozen: PyTree, records: PyTree) -> PyTree:
        return jax.lax.map(
            lambda record: score(single, record, frozen), records, batch_size=batch_size
        )

    program = jax.jit(map_shadows(score_all, choose_mapping(mapping)))
    return jax.tree.map(np.asarray, program(trainable, frozen, records))
