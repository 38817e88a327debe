"""The records that `fit` trains on: arrays in memory, or an object that gives batches."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import numpy as np

from dpjax.basics.typing import PyTree

_ARRAYS = (np.ndarray, jax.Array)


class Records(Protocol):
    """Records that give the batch of some rows, such as a table that is read from a disk."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> PyTree:
        """Returns the records at `rows`, `(b,)` int64, as a pytree of arrays `(b, ...)`."""


def check_records(data: PyTree | Records, num_units: int) -> None:
    """Checks that there are as many records as the mechanism has units.

    Raises:
        TypeError: data are neither arrays nor an object with `len` and `take`.
        ValueError: the numbers differ.
    """
    lengths = find_lengths(data)
    if lengths != {num_units}:
        found = " and ".join(map(str, sorted(lengths)))
        raise ValueError(
            f"data must have as many records as the mechanism has units, got {found} records and "
            f"num_units={num_units}: the accountant would count something else"
        )


def find_lengths(data: PyTree | Records, name: str = "data") -> set[int]:
    """Returns the numbers of records that the arrays have; one, where all of them agree.

    Raises:
        TypeError: they are neither arrays nor an object with `len` and `take`.
    """
    if gives_batches(data):
        return {len(data)}
    leaves = jax.tree.leaves(data)
    if not leaves or not all(isinstance(leaf, _ARRAYS) and leaf.ndim for leaf in leaves):
        kinds = sorted({type(leaf).__name__ for leaf in leaves}) or ["nothing"]
        raise TypeError(
            f"{name} must be a pytree of NumPy or JAX arrays with a leading axis of records, or an"
            f" object with len and take, got {' and '.join(kinds)}"
        )
    return {len(leaf) for leaf in leaves}


def count_records(data: PyTree | Records) -> int:
    """Returns how many records there are, of data that were checked."""
    return len(data) if gives_batches(data) else len(jax.tree.leaves(data)[0])


def take_records(data: PyTree | Records, rows: np.ndarray) -> PyTree:
    """Returns the records at `rows`, `(b,)` int64, along the leading axis."""
    if gives_batches(data):
        return data.take(rows)
    return jax.tree.map(lambda leaf: leaf[rows], data)


def gives_batches(data: Any) -> bool:
    """Whether data are an object with `len` and `take`, and not arrays."""
    # Arrays and data frames have a `take` too, which means something else: of an array that has two
    # axes it would take single numbers, so that one record would count as several units.
    return hasattr(data, "take") and hasattr(data, "__len__") and not hasattr(data, "shape")
