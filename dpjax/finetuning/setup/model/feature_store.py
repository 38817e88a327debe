"""The features of all records of a run, in host memory. They are secret, as the records are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dpjax.finetuning.tasks.features import FeatureRecord, Features


class FeatureStore:
    """Keeps features by the length that their records were padded to, and hands out rows.

    Args:
        features: of what shapes they are.
        lengths: `(N,)` integers, tokens of each record with its padding, as it is computed.

    Example:
        >>> from dpjax.finetuning.tasks.features import Feature
        >>> of_tokens = Feature((4, 2), np.dtype(np.float32), token_axes=((0, 0),))
        >>> store = FeatureStore(Features((of_tokens,), (), 4, 1.0, True), np.array([1, 3]))
        >>> store.put(np.array([1]), (np.ones((1, 3, 2)),))
        >>> store.put(np.array([0]), (np.ones((1, 1, 2)),))
        >>> store.take(np.array([0, 1, 0]), length=3)[0][..., 0].tolist()
        [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, features: Features, lengths: np.ndarray) -> None:
        self._features, self._lengths = features, np.asarray(lengths)
        self._places = np.empty(len(self._lengths), np.int64)
        self._arrays: dict[int, list[np.ndarray]] = {}
        for length in np.unique(self._lengths).tolist():
            rows = np.flatnonzero(self._lengths == length)
            self._places[rows] = np.arange(len(rows))
            self._arrays[length] = [
                np.empty((len(rows), *array.shape_at(length)), array.dtype)
                for array in features.arrays
            ]

    @property
    def num_bytes(self) -> int:
        """Bytes of all features."""
        return sum(array.nbytes for arrays in self._arrays.values() for array in arrays)

    def put(self, rows: np.ndarray, values: Sequence[Any]) -> None:
        """Keeps the features, arrays `(b, ...)`, of the records at `rows`, all of one length."""
        (length,) = np.unique(self._lengths[rows]).tolist()
        for array, new in zip(self._arrays[length], values, strict=True):
            array[self._places[rows]] = np.asarray(new)

    def take(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, ...]:
        """Returns the features of the records at `rows`, `(b,)`, cut or padded to a length.

        What is padding there is zero, or what was computed of a record's own padding: a model whose
        attention is masked reads neither.
        """
        shapes = [array.shape_at(length) for array in self._features.arrays]
        taken = tuple(
            np.zeros((len(rows), *shape), array.dtype)
            for shape, array in zip(shapes, self._features.arrays, strict=True)
        )
        for own_length, chosen in self._by_length(rows):
            places = self._places[rows[chosen]]
            for feature, array, into in zip(
                self._features.arrays, self._arrays[own_length], taken, strict=True
            ):
                part = _cut(feature.shape_at(min(own_length, length)))
                into[(chosen, *part)] = array[(places, *part)]
        return taken

    def records(self, rows: np.ndarray, batch: Any) -> FeatureRecord:
        """Returns a batch of the records at `rows` with their features."""
        features = self.take(rows, batch.input_ids.shape[-1])
        return FeatureRecord(features, self._features.without_unread(batch))

    def _by_length(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        lengths = self._lengths[rows]
        for length in np.unique(lengths).tolist():
            yield length, np.flatnonzero(lengths == length)


def _cut(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(None, size) for size in shape)
