"""The sampler and the number of steps of a mechanism, read from its description."""

from __future__ import annotations

import numpy as np
from dpjax_accounting import (
    DPSGD,
    AdaptiveClippingDPSGD,
    BandedDPSGD,
    BestOfRuns,
    Composition,
    DPSGDSchedule,
    FixedSizeDPSGD,
    FullBatch,
    GroupOfRecords,
    LaplaceDPSGD,
    Mechanism,
    RandomAllocationDPSGD,
    ShuffledDPSGD,
    TruncatedPoissonDPSGD,
    UserLevelDPSGD,
)

from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.randomness.step_noise import needed_for_a_run
from dpjax.privatize.sampling.epochs import RandomAllocationSampler, ShuffledSampler
from dpjax.privatize.sampling.fixed_size import FixedSizeSampler, FullBatchSampler
from dpjax.privatize.sampling.poisson import (
    CyclicPoissonSampler,
    PoissonSampler,
    ScheduledPoissonSampler,
    TruncatedPoissonSampler,
)
from dpjax.privatize.sampling.sampler import Sampler, number_of_slots

# Why a mechanism draws no batches of its own, and what to do.
_NO_RUN: dict[type[Mechanism], str] = {
    BestOfRuns: "describes a choice among several runs. Make every run with its `run` and a run key"
    " of its own",
    Composition: "describes several runs. Make each with its own mechanism and run key",
    GroupOfRecords: "says what a run means for users with several records. Make the run with its"
    " `run`",
}
# Why a unit that may be absent has no place in batches that are drawn from all together.
_NEEDS_ALL: dict[type[Mechanism], str] = {
    TruncatedPoissonDPSGD: "who is kept in a batch that is too large depends on how many are drawn",
    FixedSizeDPSGD: "another unit would take the place of an absent one",
    ShuffledDPSGD: "other units would move from batch to batch where one is absent",
    BandedDPSGD: "other units would move from group to group where one is absent",
}


def sampler_for(
    mechanism: Mechanism, run_key: RunKey, present: np.ndarray | None = None
) -> Sampler:
    """Makes the sampler whose batches `mechanism` accounts for.

    Args:
        mechanism: what the accountant counts. `FullBatch` must say its `num_units`, and
            `ShuffledDPSGD` its `num_units` and `batch_size`, which no ε depends on.
        run_key: the secret of the run.
        present: `(S,)` bool for S slots of units, if not every unit is sure to be there, as for
            `PoissonSampler.for_mechanism`. Only where each unit is drawn by itself. The numbers of
            the mechanism must not depend on who is present.

    Returns:
        A `Sampler`. For `UserLevelDPSGD` it draws records: see to it that nobody owns more of them
        than `records_per_user`.

    Raises:
        TypeError: the mechanism describes no way of sampling, or `present` holds no truth values.
        ValueError: the mechanism lacks a number that sampling needs; or `present` has another
            number of axes than one, or the mechanism draws all units together.

    Example:
        >>> from dpjax.privatize import RunKey, sampler_for
        >>> mechanism = FixedSizeDPSGD(
        ...     num_units=1000, batch_size=10, noise_multiplier=1.0, num_steps=50
        ... )
        >>> sampler = sampler_for(mechanism, RunKey.from_os_entropy())
        >>> {len(sampler.indices(step)) for step in range(50)}
        {10}
    """
    _check_draws_alone(mechanism, present)
    match mechanism:
        case DPSGD() | AdaptiveClippingDPSGD() | LaplaceDPSGD():
            probability = mechanism.expected_batch_size / mechanism.num_units
            slots = number_of_slots(mechanism.num_units, present)
            return PoissonSampler(slots, probability, run_key, present)
        case UserLevelDPSGD():
            probability = mechanism.expected_batch_size / mechanism.num_records
            slots = number_of_slots(mechanism.num_records, present)
            return PoissonSampler(slots, probability, run_key, present)
        case DPSGDSchedule():
            number_of_slots(mechanism.num_units, present)
            return ScheduledPoissonSampler(mechanism, run_key, present)
        case TruncatedPoissonDPSGD():
            probability = mechanism.expected_batch_size / mechanism.num_units
            most = mechanism.largest_batch_size
            return TruncatedPoissonSampler(mechanism.num_units, probability, most, run_key)
        case BandedDPSGD():
            groups, probability = mechanism.bands, mechanism.sampling_probability
            return CyclicPoissonSampler(mechanism.num_units, groups, probability, run_key)
        case FixedSizeDPSGD():
            return FixedSizeSampler(mechanism.num_units, mechanism.batch_size, run_key)
        case RandomAllocationDPSGD():
            slots = number_of_slots(mechanism.num_units, present)
            return RandomAllocationSampler(slots, mechanism.batches_per_epoch, run_key, present)
        case ShuffledDPSGD():
            num_units = needed_for_a_run(mechanism, "num_units")
            return ShuffledSampler(num_units, needed_for_a_run(mechanism, "batch_size"), run_key)
        case FullBatch():
            num_units = needed_for_a_run(mechanism, "num_units")
            return FullBatchSampler(number_of_slots(num_units, present), present)
    raise _refusal(mechanism)


def num_steps_of(mechanism: Mechanism) -> int:
    """Returns the number of steps of a run of `mechanism`: of all epochs, if it counts in epochs.

    Raises:
        TypeError, ValueError: as for `sampler_for`.

    Example:
        >>> from dpjax.privatize import num_steps_of
        >>> num_steps_of(
        ...     ShuffledDPSGD(noise_multiplier=4.0, num_epochs=3, num_units=1000, batch_size=300)
        ... )
        12
    """
    match mechanism:
        case ShuffledDPSGD():
            for field in ("num_units", "batch_size"):
                needed_for_a_run(mechanism, field)
            return mechanism.num_steps
        case RandomAllocationDPSGD():
            return mechanism.num_steps
        case DPSGD() | DPSGDSchedule() | AdaptiveClippingDPSGD() | UserLevelDPSGD():
            return mechanism.num_steps
        case (
            TruncatedPoissonDPSGD()
            | FixedSizeDPSGD()
            | LaplaceDPSGD()
            | BandedDPSGD()
            | FullBatch()
        ):
            return mechanism.num_steps
    raise _refusal(mechanism)


def why_all_must_be_present(kind: type[Mechanism]) -> str | None:
    """Returns why `sampler_for` refuses `present` for a kind of mechanism; None if it takes it.

    Example:
        >>> why_all_must_be_present(FixedSizeDPSGD)
        'another unit would take the place of an absent one'
    """
    return next((reason for other, reason in _NEEDS_ALL.items() if issubclass(kind, other)), None)


def _check_draws_alone(mechanism: Mechanism, present: np.ndarray | None) -> None:
    reason = None if present is None else why_all_must_be_present(type(mechanism))
    if reason is not None:
        raise ValueError(
            f"present must be left out for {type(mechanism).__name__}: {reason}. Let an absent "
            "unit be one that contributes nothing"
        )


def _refusal(mechanism: object) -> TypeError:
    name = type(mechanism).__name__
    for kind, reason in _NO_RUN.items():
        if isinstance(mechanism, kind):
            return TypeError(f"mechanism must describe one run, got {name}: it {reason}")
    return TypeError(
        f"mechanism must describe how batches are drawn, got {name}. Take DPSGD or another "
        "mechanism of dpjax_accounting that is made of steps"
    )
