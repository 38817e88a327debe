"""Poisson sampling: every unit by itself, with one probability or with one that changes."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from dpjax_accounting import DPSGD, DPSGDSchedule

from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.sampling.sampler import number_of_slots, places_of


@dataclasses.dataclass(frozen=True)
class PoissonSampler:
    """Draws every unit independently with one probability, as a pure function of (run key, step).

    Nothing is truncated: a batch may have any size, 0 included. A private run builds it with
    `for_mechanism` or `sampler_for`: sampler and accountant then read one description.

    Source: Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1.

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
                f"{type(mechanism).__name__}: the accountant would count something else. "
                "sampler_for makes the sampler of other mechanisms"
            )
        slots = number_of_slots(mechanism.num_units, present)
        return cls(slots, mechanism.sampling_probability, run_key, present)

    def indices(self, step: int) -> np.ndarray:
        """The units of `step`, ascending, int64 `(n,)`; each present one with probability q."""
        uniform = self.run_key.sampling_rng(step).random(self.num_units)
        return places_of(uniform < self.sampling_probability, self.present)


@dataclasses.dataclass(frozen=True)
class ScheduledPoissonSampler:
    """Draws Poisson batches whose probability is that of the schedule's segment.

    Attributes:
        schedule: says how many units there are, and the mean batch size of each step.
        run_key: the secret of the run.
        present: `(S,)` bool for S slots of units, as for `PoissonSampler.for_mechanism`.

    Example:
        >>> from dpjax_accounting import Segment
        >>> small = Segment(expected_batch_size=5, noise_multiplier=1.0, num_steps=2)
        >>> whole = Segment(expected_batch_size=20, noise_multiplier=4.0, num_steps=1)
        >>> schedule = DPSGDSchedule(num_units=20, segments=(small, whole))
        >>> sampler = ScheduledPoissonSampler(schedule, RunKey.from_seed(1))
        >>> [len(sampler.indices(step)) for step in range(3)]
        [6, 6, 20]
    """

    schedule: DPSGDSchedule
    run_key: RunKey
    present: np.ndarray | None = None

    def indices(self, step: int) -> np.ndarray:
        """Returns the units of `step`; each present one with the probability of the step.

        Raises:
            ValueError: the schedule has no step of this number.
        """
        num_units = self.schedule.num_units
        probability = self.schedule.segment_at(step).expected_batch_size / num_units
        slots = number_of_slots(num_units, self.present)
        return PoissonSampler(slots, probability, self.run_key, self.present).indices(step)


@dataclasses.dataclass(frozen=True)
class TruncatedPoissonSampler:
    """Draws Poisson batches, and keeps a uniformly random part of those that are too large.

    The batches are those of `PoissonSampler` with the same key, where they are small enough.

    Source: Ganesh 2025, "Tighter Privacy Analysis for Truncated Poisson Sampling",
    arXiv:2508.15089.

    Attributes:
        num_units: n, public.
        sampling_probability: q, before batches are cut.
        largest_batch_size: L, the most units in a batch.
        run_key: the secret of the run.

    Example:
        >>> sampler = TruncatedPoissonSampler(20, 0.25, 4, RunKey.from_seed(1))
        >>> sampler.indices(step=0).tolist()
        [0, 6, 13, 15]
        >>> [len(sampler.indices(step)) for step in range(8)]
        [4, 4, 2, 4, 4, 2, 2, 4]
    """

    num_units: int
    sampling_probability: float
    largest_batch_size: int
    run_key: RunKey

    def indices(self, step: int) -> np.ndarray:
        """Returns the units of `step`, int64 `(n,)` with n at most L, ascending."""
        rng = self.run_key.sampling_rng(step)
        drawn = np.flatnonzero(rng.random(self.num_units) < self.sampling_probability)
        if len(drawn) <= self.largest_batch_size:
            return drawn
        kept = rng.choice(len(drawn), self.largest_batch_size, replace=False, shuffle=False)
        return drawn[np.sort(kept)]


@dataclasses.dataclass(frozen=True)
class CyclicPoissonSampler:
    """Draws Poisson batches from one of b groups of units in turn.

    The run key deals the units into groups whose sizes differ by at most one, without looking at
    them. Step t draws from group t mod b, every unit of it with one probability. A unit takes part
    at most once in b successive steps.

    Source: Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization", theorem 4.

    Attributes:
        num_units: n, public.
        num_groups: b, the number of bands of the correlated noise.
        sampling_probability: of a unit of the step's group: mean batch size / ⌊n / b⌋.
        run_key: the secret of the run.

    Example:
        >>> sampler = CyclicPoissonSampler(7, 3, 1.0, RunKey.from_seed(2))
        >>> [sampler.indices(step).tolist() for step in range(4)]
        [[0, 3, 6], [1, 5], [2, 4], [0, 3, 6]]
    """

    num_units: int
    num_groups: int
    sampling_probability: float
    run_key: RunKey

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return self.run_key.epoch_rng("groups", 0).permutation(self.num_units)

    def indices(self, step: int) -> np.ndarray:
        """Returns the units of `step`, int64 `(n,)`, ascending, all of one group."""
        group = np.sort(self._order[step % self.num_groups :: self.num_groups])
        uniform = self.run_key.sampling_rng(step).random(len(group))
        return group[uniform < self.sampling_probability]
