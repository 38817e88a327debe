"""DP-SGD that samples users, and clips what each of them contributes as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.mechanisms.adaptive_clipping import AdaptiveClippingDPSGD
from dpjax_accounting.mechanisms.dpsgd import DPSGD
from dpjax_accounting.mechanisms.mechanism import Mechanism
from dpjax_accounting.mechanisms.other_samplings.fixed_size import FixedSizeDPSGD
from dpjax_accounting.mechanisms.other_samplings.full_batch import FullBatch
from dpjax_accounting.mechanisms.other_samplings.random_allocation import RandomAllocationDPSGD
from dpjax_accounting.mechanisms.other_samplings.shuffled import ShuffledDPSGD
from dpjax_accounting.mechanisms.other_samplings.truncated_poisson import TruncatedPoissonDPSGD


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampled(Mechanism):
    """Makes a mechanism on units one on users, with the guarantee for all that a user owns.

    In each step users are drawn instead of records; of a drawn one at most k records are used,
    chosen by how many records the user has and randomness of the user's own; and their gradients
    are clipped as one contribution (McMahan et al. 2018, "Learning Differentially Private Recurrent
    Language Models", arXiv:1710.06963; "user-level sampling" of Charles et al. 2024, "Fine-Tuning
    Large Language Models with User-Level Differential Privacy", arXiv:2407.07737). A user moves the
    sum by at most C, whatever k is, so that ε is that of the mechanism with as many units. The
    proof for every way of sampling is in docs/accounting/proofs.md.

    Attributes:
        records_per_user: k, the most records of a user that a step reads; no ε depends on it.
        unit: "user".
    """

    units: ClassVar[tuple[str, ...]] = ("user",)
    refused_units: ClassVar[Mapping[str, str]] = {}

    records_per_user: int
    unit: str = "user"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampledDPSGD(UserSampled, DPSGD):
    """DP-SGD with Poisson sampling of users, with the guarantee for all that a user owns.

    In each step every user is included independently; of an included one at most k records are
    used, and their gradients are clipped as one contribution, as :class:`UserSampled` says.

    :class:`UserLevelDPSGD` is for users whose records are sampled and clipped singly.

    Attributes:
        num_units: number of users, at least 1.
        expected_batch_size: mean number of users per step, above 0 and at most `num_units`.
        noise_multiplier: noise standard deviation / clip norm of a user's contribution, above 0.
        num_steps: number of noisy releases, at least 0.
        records_per_user: k, the most records of a user that a step reads; no ε depends on it.
        sampling: "poisson".
        unit: "user".
        neighboring: "add_or_remove_one", "zero_out" or "replace_one", of a user with all records.

    Example:
        >>> from dpjax_accounting import UserSampledDPSGD
        >>> run = UserSampledDPSGD(
        ...     num_units=67349,
        ...     expected_batch_size=1024,
        ...     noise_multiplier=1.0,
        ...     num_steps=198,
        ...     records_per_user=8,
        ... )
        >>> run.unit, round(run.epsilon(delta=1e-5), 3)
        ('user', 1.396)
    """

    name: ClassVar[str] = "user_sampled_dpsgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampledAdaptiveClippingDPSGD(UserSampled, AdaptiveClippingDPSGD):
    """Poisson sampling of users, with a noisy count in every step of those that were not clipped.

    A user counts as one, whatever the number of records: the contribution of a user was clipped or
    not. So the count moves by as much as it does with records as units.

    Attributes:
        num_units: number of users. The other fields are those of :class:`AdaptiveClippingDPSGD`,
            of users, and of :class:`UserSampled`.

    Example:
        >>> from dpjax_accounting import UserSampledAdaptiveClippingDPSGD
        >>> run = UserSampledAdaptiveClippingDPSGD(
        ...     num_units=67349,
        ...     expected_batch_size=1024,
        ...     gradient_noise_multiplier=1.00005,
        ...     num_steps=198,
        ...     count_stddev=51.2,
        ...     records_per_user=8,
        ... )
        >>> run.unit, round(run.epsilon(delta=1e-5), 3)
        ('user', 1.396)
    """

    name: ClassVar[str] = "user_sampled_adaptive_clipping_dpsgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampledTruncatedPoissonDPSGD(UserSampled, TruncatedPoissonDPSGD):
    """Poisson batches of users that lose random users where they exceed `largest_batch_size`.

    Attributes:
        num_units: number of users; public. The other fields are those of
            :class:`TruncatedPoissonDPSGD`, of users, and of :class:`UserSampled`.

    Example:
        >>> from dpjax_accounting import UserSampledTruncatedPoissonDPSGD
        >>> run = UserSampledTruncatedPoissonDPSGD(
        ...     num_units=67349,
        ...     expected_batch_size=1024,
        ...     noise_multiplier=1.0,
        ...     num_steps=198,
        ...     largest_batch_size=1216,
        ...     records_per_user=8,
        ... )
        >>> run.unit, round(run.epsilon(delta=7.424e-6), 3)
        ('user', 1.435)
    """

    name: ClassVar[str] = "user_sampled_truncated_poisson_dpsgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampledFixedSizeDPSGD(UserSampled, FixedSizeDPSGD):
    """Batches of a fixed number of users, drawn without replacement.

    Attributes:
        num_units: number of users; public. The other fields are those of :class:`FixedSizeDPSGD`,
            of users, and of :class:`UserSampled`.

    Example:
        >>> from dpjax_accounting import UserSampledFixedSizeDPSGD
        >>> run = UserSampledFixedSizeDPSGD(
        ...     num_units=67349,
        ...     batch_size=1024,
        ...     noise_multiplier=1.0,
        ...     num_steps=198,
        ...     records_per_user=8,
        ... )
        >>> run.unit, run.neighboring, round(run.epsilon(delta=7.424e-6), 2)
        ('user', 'replace_one', 11.06)
    """

    name: ClassVar[str] = "user_sampled_fixed_size_dpsgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampledRandomAllocationDPSGD(UserSampled, RandomAllocationDPSGD):
    """Every user is put into one random batch of every epoch (balls and bins).

    Attributes:
        num_units: number of users. The other fields are those of :class:`RandomAllocationDPSGD`,
            of users, and of :class:`UserSampled`.

    Example:
        >>> from dpjax_accounting import UserSampledRandomAllocationDPSGD
        >>> run = UserSampledRandomAllocationDPSGD(
        ...     num_units=1000,
        ...     batches_per_epoch=10,
        ...     noise_multiplier=2.0,
        ...     num_epochs=3,
        ...     records_per_user=8,
        ... )
        >>> run.unit, run.num_steps
        ('user', 30)
    """

    name: ClassVar[str] = "user_sampled_random_allocation_dpsgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampledShuffledDPSGD(UserSampled, ShuffledDPSGD):
    """Every user takes part in exactly one step of each epoch; no amplification is claimed.

    Attributes:
        num_units: number of users. The other fields are those of :class:`ShuffledDPSGD`, of users,
            and of :class:`UserSampled`.

    Example:
        >>> from dpjax_accounting import UserSampledShuffledDPSGD
        >>> run = UserSampledShuffledDPSGD(noise_multiplier=4.0, num_epochs=3, records_per_user=8)
        >>> run.unit, round(run.epsilon(delta=1e-5), 3)
        ('user', 1.698)
    """

    name: ClassVar[str] = "user_sampled_shuffled_dpsgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampledFullBatch(UserSampled, FullBatch):
    """The Gaussian mechanism on the sum over all users, each clipped as one.

    Attributes:
        noise_multiplier: noise standard deviation / clip norm of a user's contribution, above 0.
            The other fields are those of :class:`FullBatch`, of users, and of :class:`UserSampled`.

    Example:
        >>> from dpjax_accounting import UserSampledFullBatch
        >>> run = UserSampledFullBatch(noise_multiplier=8.0, num_steps=3, records_per_user=8)
        >>> run.unit, round(run.epsilon(delta=1e-5), 3)
        ('user', 0.791)
    """

    name: ClassVar[str] = "user_sampled_full_batch"
