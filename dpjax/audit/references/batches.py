"""The Poisson batches of every shadow and step, as index arrays of one static shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpjax.privatize import PoissonSampler, RunKey, microbatches


class ShadowBatches(NamedTuple):
    """What each shadow sees in each step, in M microbatches of m rows.

    Attributes:
        rows: (k, steps, M, m) int32, numbers of records.
        counts: (k, steps, M, m) bool, False at rows that fill a microbatch up.
    """

    rows: NDArray[np.int32]
    counts: NDArray[np.bool_]


def draw_batches(
    membership: NDArray[np.bool_],
    keys: Sequence[RunKey],
    *,
    num_steps: int,
    expected_batch_size: int,
    microbatch_size: int | None,
) -> ShadowBatches:
    """Draws Poisson batches for each shadow among its own records, B of them in expectation.

    Nothing is truncated: the arrays have room for the largest batch of all.

    Args:
        membership: (k, n) bool, True where a shadow trains on a record.
        keys: k run keys.
        num_steps: at least 1.
        expected_batch_size: B, at least 1.
        microbatch_size: m; None makes room for the largest batch in one.

    Raises:
        ValueError: a shadow has fewer than B records.
    """
    drawn = []
    for shadow, (is_in, key) in enumerate(zip(membership, keys, strict=True)):
        members = np.flatnonzero(is_in)
        if len(members) < expected_batch_size:
            raise ValueError(
                f"expected_batch_size must be at most the number of a shadow's records, got "
                f"{expected_batch_size}, and shadow {shadow} trains on {len(members)}"
            )
        sampler = PoissonSampler(len(members), expected_batch_size / len(members), key)
        drawn.append([members[sampler.indices(step)] for step in range(num_steps)])
    largest = max(1, max(len(rows) for steps in drawn for rows in steps))
    size = largest if microbatch_size is None else min(microbatch_size, largest)
    shape = (len(drawn), num_steps, -(-largest // size), size)
    rows, counts = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for shadow, steps in enumerate(drawn):
        for step, indices in enumerate(steps):
            for number, (piece, mask) in enumerate(microbatches(indices, size)):
                rows[shadow, step, number], counts[shadow, step, number] = piece, mask
    return ShadowBatches(rows, counts)
