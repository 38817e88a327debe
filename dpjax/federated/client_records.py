"""Records of clients as batches of one static shape, for local training."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import jax
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.data import RecordsByOwner


def as_local_batches(
    rows: np.ndarray, mask: np.ndarray, batch_size: int, num_batches: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the rows of each client into local batches.

    Args:
        rows: `(c, k)` int64, up to k rows of each of c clients, those that count first.
        mask: `(c, k)` bool, True where a row counts.
        batch_size: b, the rows of a local batch, at least 1.
        num_batches: S; default: as many as k rows need. Rows beyond must not count.

    Returns:
        Rows `(c, S, b)` and their mask; a client's first row stands where none counts.

    Raises:
        ValueError: `num_batches` would leave out rows that count.

    Example:
        >>> rows, mask = np.array([[4, 5, 6]]), np.array([[True, True, True]])
        >>> chosen, counts = as_local_batches(rows, mask, 2)
        >>> chosen.tolist(), counts.tolist()
        ([[[4, 5], [6, 4]]], [[[True, True], [True, False]]])
    """
    num_clients, most = rows.shape
    num_batches = -(-most // batch_size) if num_batches is None else num_batches
    wanted = num_batches * batch_size
    if mask[:, wanted:].any():
        raise ValueError(
            f"num_batches={num_batches} batches of {batch_size} leave out rows that count: a client"
            f" has {int(mask.sum(axis=1).max())}"
        )
    filled = np.repeat(rows[:, :1], wanted, axis=1)
    counts = np.zeros((num_clients, wanted), np.bool_)
    kept = min(wanted, most)
    filled[:, :kept], counts[:, :kept] = rows[:, :kept], mask[:, :kept]
    filled = np.where(counts, filled, rows[:, :1])
    shape = (num_clients, num_batches, batch_size)
    return filled.reshape(shape), counts.reshape(shape)


class ClientRecords:
    """Records as units of one client each, for `client_loss`.

    Client i has the first `at_most` records of its name, the same ones in every round, in batches
    of one shape: a client with fewer has batches that are masked.

    Args:
        records: a pytree of arrays `(N, ...)`, one row per record.
        names: the client of each record.
        batch_size: b, the records of a local batch, at least 1.
        at_most: how many records of a client count, at least 1. The others are never seen.

    Raises:
        ValueError: there is no record, the lengths differ, or a number is below 1.

    Example:
        >>> texts = ClientRecords(np.arange(4.0), "abaa", batch_size=2, at_most=3)
        >>> cohort = texts.take(np.array([0, 1]))
        >>> len(texts), cohort["examples"].tolist()
        (2, [[[0.0, 2.0], [3.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
        >>> cohort["mask"].sum(axis=(1, 2)).tolist()
        [3, 1]
    """

    def __init__(
        self, records: PyTree, names: Iterable[Hashable], *, batch_size: int, at_most: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        # It checks the rest.
        self.owners = RecordsByOwner(records, names, at_most=at_most).owners
        self._records, self._batch_size, self._at_most = records, batch_size, at_most

    def __len__(self) -> int:
        return len(self.owners)

    def take(self, rows: np.ndarray) -> dict[str, Any]:
        """Returns the clients at `rows`: leaves `(c, S, b, ...)`, and a mask `(c, S, b)`."""
        chosen, mask = as_local_batches(
            *self.owners.first(rows, self._at_most), batch_size=self._batch_size
        )
        return {"examples": jax.tree.map(lambda leaf: leaf[chosen], self._records), "mask": mask}
