"""Records with the same tokens: a copy in training is as good as the record itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpjax.data import EncodedRecords


def count_copies(records: EncodedRecords, included: NDArray[np.bool_]) -> int:
    """Counts left-out records whose tokens are those of a record in training, whatever the labels.

    A model has learnt them although their coin says "out". Bounds stay valid, and come out lower.

    Args:
        records: N encoded records.
        included: (N,) bool, as the coins say.

    Raises:
        ValueError: `included` has another length.

    Example:
        >>> ids = np.array([[5, 6], [5, 6], [5, 7]])
        >>> records = EncodedRecords(ids, ids > 0, truncated=np.zeros(3, bool))
        >>> count_copies(records, np.array([True, False, False]))
        1
    """
    if np.shape(included) != (len(records),):
        raise ValueError(f"included must be ({len(records)},), got {np.shape(included)}")
    rows = list(zip(records.contents(), included, strict=True))
    trained = {row for row, is_in in rows if is_in}
    return sum(row in trained for row, is_in in rows if not is_in)
