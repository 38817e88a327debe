"""What people are told of how each mechanism draws its batches: one place for all reports."""

from __future__ import annotations

import re
from typing import NamedTuple

from dpjax_accounting import (
    DPSGD,
    AdaptiveClippingDPSGD,
    BandedDPSGD,
    DPSGDSchedule,
    FixedSizeDPSGD,
    FullBatch,
    LaplaceDPSGD,
    Mechanism,
    RandomAllocationDPSGD,
    ShuffledDPSGD,
    TruncatedPoissonDPSGD,
    UserLevelDPSGD,
)

from dpjax.privatize.randomness.step_noise import needed_for_a_run

_BY_PHILOX = "by a Philox generator with a 128-bit key that is derived from the run key"
_EACH_ALONE = f"every record is drawn independently in every step, {_BY_PHILOX}"
_SECRET = (
    "The adversary may see the final model and every intermediate one, but not which records were "
    "drawn in which step."
)
_RECORD = re.compile(r"\brecord(?=s?\b)")


class SamplingDescription(NamedTuple):
    """How a mechanism draws batches, and what that asks of the world, in words.

    Attributes:
        brief: for a line, such as "Poisson sampling probability 0.05".
        sentence: how the records of a step are drawn, and what becomes of large batches.
        divided_by: the constant that noisy sums are divided by.
        public: which numbers are treated as public.
        adversary: what may be known to whoever attacks.
        is_secret: whether the guarantee needs it to stay secret which records were drawn.
        counted: what of a run that has stopped is in its ε.
    """

    brief: str
    sentence: str
    divided_by: str
    public: str
    adversary: str = _SECRET
    is_secret: bool = True
    counted: str = "all steps completed"


def describe_sampling(mechanism: Mechanism) -> SamplingDescription:
    """Describes how `sampler_for(mechanism, ...)` draws, in words that fit the account.

    What is drawn is called records, or users, as the mechanism does.

    Args:
        mechanism: one that describes a run.

    Raises:
        TypeError: the mechanism is of another kind.
        ValueError: it lacks a number that a run needs.

    Example:
        >>> mechanism = FullBatch(noise_multiplier=5.0, num_steps=10, num_units=40)
        >>> describe_sampling(mechanism).sentence
        'None: every record takes part in every step.'
    """
    described = _describe(mechanism)
    if mechanism.unit != "user" or isinstance(mechanism, UserLevelDPSGD):
        return described
    # Users are drawn as records are.
    return described._replace(
        brief=_RECORD.sub("user", described.brief),
        sentence=_RECORD.sub("user", described.sentence),
        public=_RECORD.sub("user", described.public),
        adversary=_RECORD.sub("user", described.adversary),
    )


def _describe(mechanism: Mechanism) -> SamplingDescription:
    """Describes how units are drawn, which are called records."""
    match mechanism:
        case DPSGD() | LaplaceDPSGD():
            return SamplingDescription(
                brief=f"Poisson sampling probability {mechanism.sampling_probability:.4g}",
                sentence=f"Poisson: {_EACH_ALONE}. No batch is truncated.",
                divided_by="expected_batch_size",
                public="The sampling probability, the number of steps, the clip norm and the "
                "expected batch size are public.",
            )
        case AdaptiveClippingDPSGD():
            probability = mechanism.expected_batch_size / mechanism.num_units
            return SamplingDescription(
                brief=f"Poisson sampling probability {probability:.4g}",
                sentence=f"Poisson: {_EACH_ALONE}. No batch is truncated.",
                divided_by="expected_batch_size",
                public="The sampling probability, the number of steps, the clip norm of each step "
                "and the expected batch size are public.",
            )
        case UserLevelDPSGD():
            probability = mechanism.expected_batch_size / mechanism.num_records
            return SamplingDescription(
                brief=f"Poisson sampling probability {probability:.4g} of records, of which a user "
                f"has at most {mechanism.records_per_user}",
                sentence=f"Poisson: {_EACH_ALONE}, and clipped by itself. No batch is truncated.",
                divided_by="expected_batch_size",
                public="The number of records, the most that a user has, the sampling probability, "
                "the number of steps, the clip norm and the expected batch size are public.",
            )
        case DPSGDSchedule():
            return SamplingDescription(
                brief=f"Poisson sampling on a schedule of {len(mechanism.segments)} segments",
                sentence=f"Poisson, with the probability of the step's segment: {_EACH_ALONE}. No "
                "batch is truncated.",
                divided_by="expected_batch_size of the step's segment",
                public="The segments with their expected batch sizes, noise and numbers of steps, "
                "the number of records and the clip norm are public.",
            )
        case TruncatedPoissonDPSGD():
            most, probability = mechanism.largest_batch_size, mechanism.sampling_probability
            return SamplingDescription(
                brief=f"truncated Poisson sampling probability {probability:.4g}, at most {most} "
                "records a batch",
                sentence=f"Truncated Poisson: {_EACH_ALONE}. Of a batch of more than {most} a "
                f"uniformly random part of {most} is kept.",
                divided_by="expected_batch_size",
                public="The number of records, the sampling probability, the largest batch size, "
                "the number of steps, the clip norm and the expected batch size are public.",
            )
        case FixedSizeDPSGD():
            return SamplingDescription(
                brief=f"batches of a fixed size of {mechanism.batch_size}",
                sentence=f"Fixed size: a uniformly random subset of {mechanism.batch_size} records "
                f"in every step, independent of the other steps, drawn {_BY_PHILOX}.",
                divided_by="batch_size",
                public="The number of records, the batch size, the number of steps and the clip "
                "norm are public.",
            )
        case RandomAllocationDPSGD():
            return _describe_allocation(mechanism)
        case ShuffledDPSGD():
            return _describe_shuffling(mechanism)
        case BandedDPSGD():
            return _describe_cyclic(mechanism)
        case FullBatch():
            return SamplingDescription(
                brief="full batches",
                sentence="None: every record takes part in every step.",
                divided_by="num_units",
                public="The number of records that sums are divided by, the number of steps and "
                "the clip norm are public.",
                adversary="The adversary may see the final model and every intermediate one. "
                "Nothing is drawn.",
                is_secret=False,
            )
    raise TypeError(f"mechanism must describe a run on records, got {type(mechanism).__name__}")


def _describe_allocation(mechanism: RandomAllocationDPSGD) -> SamplingDescription:
    batches = mechanism.batches_per_epoch
    return SamplingDescription(
        brief=f"random allocation to {batches} batches an epoch",
        sentence="Random allocation (balls in bins): in every epoch each record is put into one of "
        f"{batches} batches uniformly at random, independently of the other records and epochs, "
        f"{_BY_PHILOX}. Batches have random sizes, and none is truncated.",
        divided_by="num_units / batches_per_epoch",
        public="The number of batches in an epoch, the number of epochs, the clip norm and the "
        "mean batch size are public.",
        counted="every epoch that was begun as a whole one",
    )


def _describe_cyclic(mechanism: BandedDPSGD) -> SamplingDescription:
    groups, probability = mechanism.bands, mechanism.sampling_probability
    return SamplingDescription(
        brief=f"cyclic Poisson sampling probability {probability:.4g} from {groups} groups in turn",
        sentence=f"Cyclic Poisson: records are dealt once into {groups} groups whose sizes differ "
        "by at most one, without looking at them. The groups take turns. Every record of a step's "
        f"group is drawn independently, {_BY_PHILOX}. No batch is truncated.",
        divided_by="expected_batch_size",
        public="The number of records, the groups, the sampling probability, the number of steps, "
        "the clip norm, the expected batch size and the strategy matrix of the noise are public.",
    )


def _describe_shuffling(mechanism: ShuffledDPSGD) -> SamplingDescription:
    size = needed_for_a_run(mechanism, "batch_size")
    return SamplingDescription(
        brief=f"shuffled epochs in batches of {size}",
        sentence=f"Shuffled: a uniformly random order of all records in every epoch, drawn "
        f"{_BY_PHILOX}, is cut into batches of {size}. The last batch of an epoch may be smaller; "
        "it has the same noise and divisor.",
        divided_by="batch_size",
        public="The number of records, the batch size, the number of epochs and the clip norm are "
        "public.",
        adversary="The adversary may see the final model and every intermediate one, and know "
        "which records were in which step: no amplification by sampling is claimed.",
        is_secret=False,
        counted="every epoch that was begun as a whole one",
    )
