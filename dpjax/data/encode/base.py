"""What all encoded records share: arrays with one row per record."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import ClassVar, Literal, TypeVar

import numpy as np

Encoded = TypeVar("Encoded", bound="EncodedRecords")


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedRecords:
    """N records as token ids, padded to T tokens.

    Example:
        >>> ids = np.array([[5, 6, 7], [5, 0, 0]], np.int32)
        >>> data = EncodedRecords(ids, attention_mask=ids != 0, truncated=np.zeros(2, bool))
        >>> data.take([1]).trimmed(2).input_ids.tolist()
        [[5, 0]]
    """

    input_ids: np.ndarray
    """(N, T) int32."""
    attention_mask: np.ndarray
    """(N, T) bool, False at padding."""
    truncated: np.ndarray
    """(N,) bool, True where the record was longer than `max_length` tokens."""

    padding_side: ClassVar[Literal["left", "right"]] = "right"

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_truncated(self) -> int:
        """How many records were cut."""
        return int(self.truncated.sum())

    @property
    def lengths(self) -> np.ndarray:
        """(N,) integers, how many columns each record needs."""
        lengths: np.ndarray = self.attention_mask.sum(axis=1)
        return lengths

    @property
    def num_tokens(self) -> int:
        """How many tokens all records have together."""
        return int(self.attention_mask.sum())

    def contents(self) -> Iterator[bytes]:
        """Yields the tokens of each record as bytes that equal records share, whatever the labels.

        Padding is no part of them.
        """
        for ids, mask in zip(self.input_ids, self.attention_mask, strict=True):
            yield ids[mask].astype("<i4").tobytes()

    def take(self: Encoded, indices: np.ndarray) -> Encoded:
        """The records at `indices` (any order, repeats allowed), copied."""
        rows = np.asarray(indices, dtype=np.int64)
        return type(self)(**{name: array[rows] for name, array in self._arrays().items()})

    def trimmed(self: Encoded, length: int) -> Encoded:
        """Only `length` columns, dropped where the padding is; views of the same memory."""
        columns = slice(None, length) if self.padding_side == "right" else slice(-length, None)
        arrays = {name: array for name, array in self._arrays().items() if array.ndim == 2}
        return dataclasses.replace(self, **{name: a[:, columns] for name, a in arrays.items()})

    def fingerprint(self) -> str:
        """SHA-256 of all that a model sees of the records, in hexadecimal."""
        digest = hashlib.sha256()
        for name, array in self._arrays().items():
            if name != "truncated":
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class HasTargets:
    """What records share of which some tokens are targets, in a field `loss_mask`.

    Example:
        >>> class Masks(HasTargets):
        ...     loss_mask = np.array([[False, True], [False, False]])
        >>> Masks().without_targets.tolist(), Masks().num_without_targets
        ([False, True], 1)
    """

    loss_mask: np.ndarray

    @property
    def without_targets(self) -> np.ndarray:
        """(N,) bool, True where nothing is to be learnt.

        The gradient of such a record is zero, yet it counts in the privacy guarantee.
        """
        without: np.ndarray = np.all(~self.loss_mask, axis=1)
        return without

    @property
    def num_without_targets(self) -> int:
        """How many records nothing can be learnt from."""
        return int(self.without_targets.sum())
