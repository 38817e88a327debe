"""Samplers whose batches have one size: a random part of the units, or all of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from dpjax.privatize.randomness.run_key import RunKey


@dataclasses.dataclass(frozen=True)
class FixedSizeSampler:
    """Draws a uniformly random subset of a fixed size, independently in every step.

    Source: Wang, Balle and Kasiviswanathan 2019, "Subsampled Rényi Differential Privacy and
    Analytical Moments Accountant", equation 1.

    Attributes:
        num_units: n, public.
        batch_size: units in every batch, at most n.
        run_key: the secret of the run.

    Example:
        >>> sampler = FixedSizeSampler(10, 3, RunKey.from_seed(1))
        >>> [sampler.indices(step).tolist() for step in range(3)]
        [[0, 1, 4], [3, 4, 7], [0, 4, 6]]
    """

    num_units: int
    batch_size: int
    run_key: RunKey

    def indices(self, step: int) -> np.ndarray:
        """Returns the units of `step`, int64 `(batch_size,)`, ascending."""
        rng = self.run_key.sampling_rng(step)
        return np.sort(rng.choice(self.num_units, self.batch_size, replace=False, shuffle=False))


@dataclasses.dataclass(frozen=True)
class FullBatchSampler:
    """Takes every unit in every step; nothing is drawn.

    Attributes:
        num_units: number of slots of units.
        present: `(num_units,)` bool; a unit where it is False never takes part. Default: all do.

    Example:
        >>> FullBatchSampler(4, np.array([True, False, True, True])).indices(step=0).tolist()
        [0, 2, 3]
    """

    num_units: int
    present: np.ndarray | None = None

    def indices(self, step: int) -> np.ndarray:
        """Returns all units that are present, int64 `(n,)`, ascending."""
        return np.arange(self.num_units) if self.present is None else np.flatnonzero(self.present)
