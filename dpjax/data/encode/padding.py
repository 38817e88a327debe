"""Rows of different length as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def pad_tokens(
    rows: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase, side: Literal["left", "right"]
) -> tuple[np.ndarray, np.ndarray]:
    """Pads token ids `(length,)` int32 to `(N, longest)`, with the mask `(N, longest)` bool.

    Any token will do at padding, since the mask says that it does not count: the tokenizer's
    padding token, else its end-of-sequence token, else 0.
    """
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    fill = next(token for token in known if token is not None)
    masks = [np.ones(len(row), np.bool_) for row in rows]
    return pad_rows(rows, fill, side, np.int32), pad_rows(masks, False, side, np.bool_)
