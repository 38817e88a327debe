"""What a run of `fit` audits: the options, and who gets a coin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.training.fitting.records import (
    Records,
    count_records,
    find_lengths,
    take_records,
)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FitAudit:
    """What `fit` audits: fair coins put some records into training or leave them out.

    After training every one of them is scored, whichever way its coin fell, and the scores say how
    much the parameters tell about the coins (Steinke, Nasr and Jagielski 2023, "Privacy Auditing
    with One (1) Training Run"). Give either `canaries` or `rows`.

    Attributes:
        canaries: m records of your making, as `fit` takes its data: a pytree of arrays (m, ...), or
            an object with `len` and `take`. They stand beside the data. Make them such that
            training on one shows: rare, and with a gradient no shorter than the clip norm.
        rows: (m,) different row numbers of the data, such as `range(n)`. About half of these
            records are left out of training.
        score: `(params, record) -> scalar` of the trained parameters and one record, or
            `(params, record, frozen) -> scalar` as the loss; a function that JAX can trace, higher
            for records that training saw. Default: by how much training has lowered the loss.
        confidence: a right ε is called a violation in at most 1 − confidence of audits.

    Raises:
        TypeError: not exactly one of `canaries` and `rows` is given.
        ValueError: there is no record, rows are no different numbers from 0, or the confidence is
            not between 0 and 1.

    Example:
        >>> FitAudit(rows=range(400)).num_units(4000)
        3800
        >>> FitAudit(canaries=np.ones((200, 3), np.float32)).num_units(4000)
        4100
    """

    canaries: PyTree | Records | None = None
    rows: Sequence[int] | np.ndarray | None = None
    score: Callable[..., jax.Array] | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if (self.canaries is None) == (self.rows is None):
            raise TypeError("FitAudit needs either canaries or rows, and not both")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}")
        if self.canaries is not None:
            lengths = find_lengths(self.canaries, "canaries")
            if len(lengths) > 1 or 0 in lengths:
                found = " and ".join(map(str, sorted(lengths)))
                raise ValueError(f"canaries must be one or more records, got arrays of {found}")
            return
        rows = self.row_numbers
        is_integer = rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer)
        if not is_integer or not len(rows) or rows.min() < 0 or len(np.unique(rows)) < len(rows):
            raise ValueError(
                f"rows must be different row numbers of the data, from 0, got {self.rows!r}"
            )

    @property
    def row_numbers(self) -> np.ndarray:
        """`(m,)`, the rows with coins; none where there are canaries."""
        return np.asarray([] if self.rows is None else self.rows)

    @property
    def num_coins(self) -> int:
        """How many fair coins are flipped."""
        return len(self.row_numbers) if self.canaries is None else count_records(self.canaries)

    def num_units(self, num_records: int) -> int:
        """Returns the `num_units` of the mechanism: the number expected, whatever the coins say.

        Args:
            num_records: that the data have, without canaries.
        """
        if self.canaries is None:
            return num_records - self.num_coins + self.num_coins // 2
        return num_records + self.num_coins // 2


class WithCanaries:
    """The records of a run, and behind them its canaries; nothing is copied but what is taken.

    Args:
        data: n records.
        canaries: m records with the same arrays.
    """

    def __init__(self, data: PyTree | Records, canaries: PyTree | Records) -> None:
        self._data, self._canaries = data, canaries
        self._num_records = count_records(data)

    def __len__(self) -> int:
        return self._num_records + count_records(self._canaries)

    def take(self, rows: np.ndarray) -> PyTree:
        """Returns the records at `rows`, `(b,)`, of which those from n on are canaries."""
        is_canary = rows >= self._num_records
        records = take_records(self._data, np.where(is_canary, 0, rows))
        if not is_canary.any():
            return records
        canaries = take_records(self._canaries, np.where(is_canary, rows - self._num_records, 0))

        def choose(record: Any, canary: Any) -> Any:
            which = is_canary.reshape(-1, *(1,) * (record.ndim - 1))
            if isinstance(record, jax.Array):
                return jax.numpy.where(which, canary, record)
            return np.where(which, np.asarray(canary, record.dtype), record)

        return jax.tree.map(choose, records, canaries)
