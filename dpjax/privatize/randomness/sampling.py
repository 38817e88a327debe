"""Exact Poisson sampling, and the cut of a batch into microbatches of one static shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from dpjax_accounting import DPSGD

from dpjax.privatize.randomness.run_key import RunKey


@dataclasses.dataclass(frozen=True)
class PoissonSampler:
    """Draws every unit independently with one probability, as a pure function of (run key, step).

    Nothing is truncated: a batch may have any size, 0 included. A private run builds it with
    `for_mechanism`: sampler and accountant then read one description.

    Attributes:
        num_units: number of privacy units in the training data.
        sampling_probability: q, the probability that a unit takes part in a step.
        run_key: the secret of the run.
        present: `(num_units,)` bool; a unit where it is False is never drawn. Whether one is
            present changes no draw of another. Default: all are.

    Example:
        >>> mechanism = DPSGD(
        ...     num_units=20, expected_batch_size=5, noise_multiplier=1.0, num_steps=100
        ... )
        >>> sampler = PoissonSampler.for_mechanism(mechanism, RunKey.from_seed(1))
        >>> sampler.indices(step=0).tolist()
        [0, 2, 6, 13, 14, 15]
        >>> [len(sampler.indices(step)) for step in range(8)]
        [6, 6, 2, 6, 5, 2, 2, 4]
    """

    num_units: int
    sampling_probability: float
    run_key: RunKey
    present: np.ndarray | None = None

    @classmethod
    def for_mechanism(
        cls, mechanism: DPSGD, run_key: RunKey, present: np.ndarray | None = None
    ) -> PoissonSampler:
        """The sampler whose privacy amplification `mechanism` accounts for.

        Args:
            mechanism: says how many units there are and how often each is drawn.
            run_key: the secret of the run.
            present: `(S,)` bool for S slots of units, if not every unit is sure to be there, as
                with canaries that coins include. Each present one is drawn with the mechanism's
                probability. The mechanism's number of units must not depend on who is present:
                take the expected number.

        Raises:
            TypeError: the mechanism describes another way of sampling, or `present` holds no truth
                values.
            ValueError: `present` has another number of axes than one.
        """
        if not isinstance(mechanism, DPSGD):
            raise TypeError(
                f"this sampler draws Poisson batches from all units, which DPSGD describes; got "
                f"{type(mechanism).__name__}: the accountant would count something else"
            )
        if present is None:
            return cls(mechanism.num_units, mechanism.sampling_probability, run_key)
        if np.ndim(present) != 1:
            raise ValueError(f"present must have one axis, got shape {np.shape(present)}")
        if present.dtype != np.bool_:
            raise TypeError(f"present must hold truth values, got {present.dtype}")
        return cls(len(present), mechanism.sampling_probability, run_key, present)

    def indices(self, step: int) -> np.ndarray:
        """The units of `step`, ascending, int64 `(n,)`; each present one with probability q."""
        uniform = self.run_key.sampling_rng(step).random(self.num_units)
        is_drawn = uniform < self.sampling_probability
        return np.flatnonzero(is_drawn if self.present is None else is_drawn & self.present)


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
