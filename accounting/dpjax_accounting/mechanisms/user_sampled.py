"""DP-SGD that samples users, and clips what each of them contributes as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.mechanisms.dpsgd import DPSGD


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSampledDPSGD(DPSGD):
    """DP-SGD with Poisson sampling of users, with the guarantee for all that a user owns.

    In each step every user is included independently; of an included one at most k records are
    used, chosen by the user's own records and randomness of the user's own; and their gradients
    are clipped as one contribution (McMahan et al. 2018, "Learning Differentially Private Recurrent
    Language Models", arXiv:1710.06963; "user-level sampling" of Charles et al. 2024, "Fine-Tuning
    Large Language Models with User-Level Differential Privacy", arXiv:2407.07737). A user moves the
    sum by at most C, whatever k is, so that ε is that of :class:`DPSGD` with as many units.

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
    units: ClassVar[tuple[str, ...]] = ("user",)
    refused_units: ClassVar[Mapping[str, str]] = {}

    records_per_user: int
    unit: str = "user"
