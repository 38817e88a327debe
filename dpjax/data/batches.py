"""Microbatches of few static lengths with little padding."""

from __future__ import annotations

import bisect

import numpy as np

from dpjax.data.encode.base import Encoded, EncodedRecords

# Each is at most 1.5 times the one before: few programs to compile, little padding left.
_STATIC_LENGTHS = sorted(
    length for power in range(4, 20) for length in (2**power, 3 * 2 ** (power - 1))
)


def by_length(data: EncodedRecords, indices: np.ndarray) -> np.ndarray:
    """`indices` ordered by the number of tokens of the records, shortest first.

    Example:
        >>> ids = np.array([[5, 6, 7], [5, 0, 0], [5, 6, 0]], np.int32)
        >>> data = EncodedRecords(ids, ids != 0, np.zeros(3, bool))
        >>> by_length(data, np.array([0, 1, 2])).tolist()
        [1, 2, 0]
    """
    return indices[np.argsort(data.lengths[indices], kind="stable")]


def trim_padding(data: Encoded) -> Encoded:
    """Drops columns that are padding in every record, down to 16, 24, 32, 48, 64, 96, ... tokens.

    What a model computes for the remaining positions does not depend on the columns dropped.

    Example:
        >>> ids = np.zeros((2, 64), np.int32)
        >>> ids[:, :20] = 5
        >>> trim_padding(EncodedRecords(ids, ids != 0, np.zeros(2, bool))).input_ids.shape
        (2, 24)
    """
    longest = int(data.lengths.max(initial=1))
    length = _STATIC_LENGTHS[bisect.bisect_left(_STATIC_LENGTHS, longest)]
    return data.trimmed(length)
