"""Texts that several privacy units have: a guarantee for one unit is less for what many share."""

from __future__ import annotations

import hashlib

import numpy as np

from dpjax.data.encode.base import EncodedRecords


def count_shared_texts(records: EncodedRecords, unit_of: np.ndarray | None = None) -> int:
    """Counts records whose tokens are exactly those of a record of another unit.

    The number is computed from private records: it is for whoever runs the training.

    Args:
        records: N encoded records. Labels are not compared.
        unit_of: `(N,)` integers, the unit of each record; default: each is its own.

    Example:
        >>> ids = np.array([[5, 6], [5, 6], [5, 7]], np.int32)
        >>> records = EncodedRecords(ids, ids > 0, truncated=np.zeros(3, bool))
        >>> count_shared_texts(records), count_shared_texts(records, np.array([0, 0, 1]))
        (2, 0)
    """
    units = np.arange(len(records)) if unit_of is None else unit_of
    found: dict[bytes, list[int]] = {}
    for row, content in enumerate(records.contents()):
        digest = hashlib.blake2b(content, digest_size=16).digest()
        found.setdefault(digest, []).append(row)
    return sum(len(rows) for rows in found.values() if len({int(units[row]) for row in rows}) > 1)
