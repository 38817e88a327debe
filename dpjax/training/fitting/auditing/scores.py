"""The scores of single records under given parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.training.devices.layout import Layout
from dpjax.training.fitting.records import Records, take_records


def score_records(
    score: Callable[..., jax.Array],
    params: PyTree,
    frozen: PyTree,
    data: PyTree | Records,
    rows: np.ndarray,
    *,
    batch_size: int,
    layout: Layout | None,
) -> np.ndarray:
    """Computes the score of each record by itself, as training computes its loss.

    Args:
        score: `(params, record, frozen) -> scalar`.
        params: the parameters; they are not taken over.
        frozen: what the score reads beside them.
        data: the records.
        rows: `(m,)`, which of them.
        batch_size: records at once.
        layout: where arrays lie; None for a single device, or where the caller has placed them.

    Returns:
        `(m,)` float64, in the order of `rows`.
    """
    score = score if layout is None else layout.gathering(score)
    compiled = jax.jit(jax.vmap(score, in_axes=(None, 0, None)))
    found = []
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        # Filled up: one program computes all of them.
        filled = np.concatenate([chosen, np.full(batch_size - len(chosen), chosen[0])])
        batch = take_records(data, filled)
        if layout is not None:
            batch = layout.place_rows(batch)
        found.append(np.asarray(compiled(params, batch, frozen), np.float64)[: len(chosen)])
    return np.concatenate(found)
