"""Rows of different length as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


def pad_rows(
    rows: Sequence[np.ndarray], fill: int | bool, side: Literal["left", "right"], dtype: type
) -> np.ndarray:
    """The rows `(length,)` as one array `(N, longest)` of `dtype`, filled up on one side."""
    longest = max(map(len, rows), default=0)
    padded: np.ndarray = np.full((len(rows), longest), fill, dtype)
    for target, row in zip(padded, rows, strict=True):
        columns = slice(len(row)) if side == "right" else slice(longest - len(row), None)
        target[columns] = row
    return padded


def padding_id(pad_token_id: int | None, eos_token_id: int | None) -> int:
    """What stands at padding: any token will do, since the masks say that it does not count."""
    if pad_token_id is not None:
        return pad_token_id
    return 0 if eos_token_id is None else eos_token_id
