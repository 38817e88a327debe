"""Records whose frozen part has been computed: what the loss of a task reads in their place."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from dpjax.basics.typing import PyTree


class FeatureRecord(NamedTuple):
    """A record, or a batch of them, whose frozen part has been computed.

    Attributes:
        features: what the frozen part made of it.
        record: as the loss of the task reads it, with None for what is not read any more.
    """

    features: tuple[Any, ...]
    record: Any


@dataclasses.dataclass(frozen=True)
class Feature:
    """One array that the frozen part makes of a record.

    Attributes:
        shape: of a record of the greatest length.
        dtype: its format.
        token_axes: pairs of an axis and how much longer it is than the record, such as -1 where
            nothing follows the last token. The axes are ascending.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    token_axes: tuple[tuple[int, int], ...]

    def shape_at(self, length: int) -> tuple[int, ...]:
        """Returns its shape for a record of so many tokens, padding included."""
        longer = dict(self.token_axes)
        return tuple(
            length + longer[axis] if axis in longer else size
            for axis, size in enumerate(self.shape)
        )


@dataclasses.dataclass(frozen=True)
class Features:
    """Of what shapes the features of records are.

    Attributes:
        arrays: one for each array of a record.
        reads: for each leaf of a record, whether the loss reads it beside the features.
        max_length: tokens of the longest record that there may be.
        share: of the multiplications of a forward pass, those that features save.
        has_tokens: whether features, or what else is read of a record, grow with its length.
    """

    arrays: tuple[Feature, ...]
    reads: tuple[bool, ...]
    max_length: int
    share: float
    has_tokens: bool

    @property
    def bytes_of_longest(self) -> int:
        """Bytes of the features of one record of the greatest length."""
        return sum(math.prod(array.shape) * array.dtype.itemsize for array in self.arrays)

    def without_unread(self, record: PyTree) -> PyTree:
        """Returns a record or a batch with None for the leaves that are not read any more."""
        leaves, tree = jax.tree.flatten(record)
        kept = [leaf if read else None for leaf, read in zip(leaves, self.reads, strict=True)]
        return jax.tree.unflatten(tree, kept)

    def length_of(self, record: FeatureRecord) -> int:
        """Returns how many tokens a record has; the greatest length where it does not count."""
        for array, values in zip(self.arrays, record.features, strict=True):
            for axis, longer in array.token_axes:
                return int(values.shape[axis]) - longer
        for leaf in jax.tree.leaves(record.record):
            if leaf.ndim:
                return int(leaf.shape[0])
        return self.max_length
