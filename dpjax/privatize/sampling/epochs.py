"""Samplers that place every unit once in each epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.sampling.sampler import places_of


class _LatestEpoch:
    """Keeps what was drawn for one epoch: its steps follow each other."""

    def __init__(self) -> None:
        self._drawn: dict[int, np.ndarray] = {}

    def of(self, epoch: int, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        """Returns `draw(epoch)`, from memory if the call before was for the same epoch."""
        drawn = self._drawn.get(epoch)
        if drawn is None:
            drawn = draw(epoch)
            self._drawn = {epoch: drawn}
        return drawn


@dataclasses.dataclass(frozen=True)
class RandomAllocationSampler:
    """Puts every unit into one of an epoch's t batches, uniformly and independently of the others.

    Batches have random sizes. Step s is batch s mod t of epoch ⌊s / t⌋.

    Source: Chua et al. 2025, "Balls-and-Bins Sampling for DP-SGD", theorem 3.1; Feldman and
    Shenfeld 2025, "Privacy Amplification by Random Allocation".

    Attributes:
        num_units: number of slots of units.
        batches_per_epoch: t.
        run_key: the secret of the run.
        present: `(num_units,)` bool; a unit where it is False is never drawn. Whether one is
            present changes no draw of another. Default: all are.

    Example:
        >>> sampler = RandomAllocationSampler(6, 2, RunKey.from_seed(3))
        >>> [sampler.indices(step).tolist() for step in range(4)]
        [[0, 3, 5], [1, 2, 4], [4, 5], [0, 1, 2, 3]]
    """

    num_units: int
    batches_per_epoch: int
    run_key: RunKey
    present: np.ndarray | None = None
    _latest: _LatestEpoch = dataclasses.field(
        default_factory=_LatestEpoch, init=False, repr=False, compare=False
    )

    def indices(self, step: int) -> np.ndarray:
        """Returns the units of `step`, int64 `(n,)`, ascending."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        return places_of(self._latest.of(epoch, self._draw) == batch, self.present)

    def _draw(self, epoch: int) -> np.ndarray:
        rng = self.run_key.epoch_rng("allocation", epoch)
        return rng.integers(self.batches_per_epoch, size=self.num_units)


@dataclasses.dataclass(frozen=True)
class ShuffledSampler:
    """Cuts a random order of all units, a fresh one for every epoch, into batches of a fixed size.

    Every unit takes part once in an epoch. The last batch of an epoch is smaller if the batch size
    does not divide the number of units.

    Source: Chua et al. 2024, "How Private are DP-SGD Implementations?".

    Attributes:
        num_units: n, public.
        batch_size: units in every batch but the last one of an epoch.
        run_key: the secret of the run.

    Example:
        >>> sampler = ShuffledSampler(5, 2, RunKey.from_seed(1))
        >>> [sampler.indices(step).tolist() for step in range(6)]
        [[1, 4], [0, 3], [2], [0, 4], [2, 3], [1]]
    """

    num_units: int
    batch_size: int
    run_key: RunKey
    _latest: _LatestEpoch = dataclasses.field(
        default_factory=_LatestEpoch, init=False, repr=False, compare=False
    )

    @property
    def batches_per_epoch(self) -> int:
        """⌈n / batch size⌉."""
        return -(-self.num_units // self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Returns the units of `step`, int64 `(n,)` with n at most the batch size, ascending."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        start = batch * self.batch_size
        return np.sort(self._latest.of(epoch, self._draw)[start : start + self.batch_size])

    def _draw(self, epoch: int) -> np.ndarray:
        return self.run_key.epoch_rng("shuffle", epoch).permutation(self.num_units)
