"""The cut of a batch into microbatches of one static shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def microbatches(indices: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts `indices` into ⌈n/size⌉ pieces `(rows, mask)`, `(size,)` int64 and `(size,)` bool.

    Rows where the mask is False are copies of the piece's first row and must not count. No piece
    comes out of an empty batch.

    Example:
        >>> [(rows.tolist(), mask.tolist()) for rows, mask in microbatches(np.array([4, 7, 9]), 2)]
        [([4, 7], [True, True]), ([9, 9], [True, False])]
    """
    for start in range(0, len(indices), size):
        piece = indices[start : start + size]
        rows = np.concatenate([piece, np.full(size - len(piece), piece[0], piece.dtype)])
        yield rows, np.arange(size) < len(piece)
