"""Exact Poisson sampling, cut into microbatches of few static shapes with little padding."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from dpjax_accounting import DPSGD

from dpjax.data.encode.base import Encoded, EncodedRecords

if TYPE_CHECKING:
    from dpjax.privatize import RunKey

# Each is at most 1.5 times the one before: few programs to compile, little padding left.
_STATIC_LENGTHS = sorted(
    length for power in range(4, 20) for length in (2**power, 3 * 2 ** (power - 1))
)


@dataclasses.dataclass(frozen=True)
class PoissonSampler:
    """Draws every unit independently with one probability, as a pure function of (run key, step).

    Nothing is truncated: a batch may have any size, 0 included. A private run builds it with
    `for_mechanism`, so that sampler and accountant read one description.
    """

    num_units: int
    sampling_probability: float
    run_key: RunKey

    @classmethod
    def for_mechanism(cls, mechanism: DPSGD, run_key: RunKey) -> PoissonSampler:
        """The sampler whose privacy amplification `mechanism` accounts for.

        Raises:
            TypeError: the mechanism describes another way of sampling.
        """
        if not isinstance(mechanism, DPSGD):
            raise TypeError(
                f"this sampler draws Poisson batches from all units, which DPSGD describes; got "
                f"{type(mechanism).__name__}: the accountant would count something else"
            )
        return cls(mechanism.num_units, mechanism.sampling_probability, run_key)

    def indices(self, step: int) -> np.ndarray:
        """The units of `step`, ascending, int64 `(n,)`, n ~ Binomial(num_units, q)."""
        uniform = self.run_key.sampling_rng(step).random(self.num_units)
        return np.flatnonzero(uniform < self.sampling_probability)


def microbatches(indices: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts `indices` into ⌈n/size⌉ pieces `(rows, mask)`, `(size,)` int64 and `(size,)` bool.

    Rows where the mask is False are copies of the piece's first row and must not count. No piece
    comes out of an empty batch.
    """
    for start in range(0, len(indices), size):
        piece = indices[start : start + size]
        rows = np.concatenate([piece, np.full(size - len(piece), piece[0], piece.dtype)])
        yield rows, np.arange(size) < len(piece)


def by_length(data: EncodedRecords, indices: np.ndarray) -> np.ndarray:
    """`indices` ordered by the number of tokens of the records, shortest first."""
    lengths = data.attention_mask[indices].sum(axis=1)
    return indices[np.argsort(lengths, kind="stable")]


def trim_padding(data: Encoded) -> Encoded:
    """Drops columns that are padding in every record, down to 16, 24, 32, 48, 64, 96, ... tokens.

    What a model computes for the remaining positions does not depend on the columns dropped.
    """
    longest = int(data.attention_mask.sum(axis=1).max(initial=1))
    length = _STATIC_LENGTHS[bisect.bisect_left(_STATIC_LENGTHS, longest)]
    return data.trimmed(length)
