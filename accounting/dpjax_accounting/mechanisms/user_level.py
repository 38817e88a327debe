"""Guarantees for users who own several records that are sampled and clipped one by one."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np

from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.privacy_loss import (
    LARGEST_LOSS,
    SMALLEST_DELTA,
    check_delta,
    check_noise,
    checked_epsilon,
)
from dpjax_accounting.engine.releases import Release, sampled
from dpjax_accounting.mechanisms.mechanism import Mechanism, NoRenyiDivergence
from dpjax_accounting.mechanisms.stepwise import RepeatedStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserLevelDPSGD(RepeatedStep):
    """DP-SGD on records with Poisson sampling, with the guarantee for a user with several of them.

    Of a user's k records Bin(k, q) take part in a step, and move the sum by that many clip norms at
    most: a mixture of Gaussians (Ganesh 2024, "Tight Group-Level DP Guarantees for DP-SGD with
    Sampling via Mixture of Gaussians Mechanisms", arXiv:2401.10294, theorem 3.1; from vectors to
    numbers by corollary 4.7 of Choquette-Choo et al. 2024, "Privacy Amplification for Matrix
    Mechanisms", arXiv:2310.15526; used for language models by Charles et al. 2024, "Fine-Tuning
    Large Language Models with User-Level Differential Privacy"). For "replace_one" the proof is in
    docs/accounting/proofs.md. It is tighter than :class:`GroupOfRecords`.

    Attributes:
        num_records: number of records in the training data, at least 1.
        expected_batch_size: mean number of records per step, at most `num_records`.
        noise_multiplier: noise standard deviation / clip norm of a record, above 0.
        num_steps: number of noisy releases, at least 0.
        records_per_user: k, the most records that one user owns, enforced; 1 to 1000.
        unit: "user".
        neighboring: "add_or_remove_one", "zero_out" or "replace_one", of a user with all records.
    """

    name: ClassVar[str] = "user_level_dpsgd"
    units: ClassVar[tuple[str, ...]] = ("user",)

    num_records: int
    expected_batch_size: float
    noise_multiplier: float
    num_steps: int
    records_per_user: int
    unit: str = "user"
    neighboring: str = "add_or_remove_one"

    def _step(self) -> Release:
        """Returns the mixture of Gaussians."""
        check_noise(self.noise_multiplier)
        q = self.expected_batch_size / self.num_records
        contributions = _binomial(self.records_per_user, q)
        return sampled(contributions, self.noise_multiplier, self.neighboring)


def _binomial(trials: int, q: float) -> tuple[tuple[float, float], ...]:
    """Returns (probability, value) of Bin(trials, q), without values that never occur.

    What is rarer than 1e-40 counts as the next larger value, which can only raise the loss, or as
    never, where all larger ones together are as rare.
    """
    from scipy import stats

    weights = stats.binom.pmf(np.arange(trials + 1), trials, q)
    kept: list[tuple[float, float]] = []
    carried = 0.0
    for value, weight in enumerate(weights):
        carried += float(weight)
        if carried > 1e-40:
            kept.append((carried, float(value)))
            carried = 0.0
    total = math.fsum(weight for weight, _ in kept)
    return tuple((weight / total, value) for weight, value in kept)


@dataclasses.dataclass(frozen=True)
class GroupOfRecords(Mechanism):
    """The guarantee of any record-level mechanism for a user who owns up to k records.

    If the mechanism is (ε, δ)-differentially private for one record, it is
    (kε, δ (e^{kε} − 1) / (e^ε − 1)) for k of them (Vadhan 2017, "The Complexity of Differential
    Privacy", lemma 2.2, with the geometric sum kept).

    Attributes:
        run: a mechanism with unit "record" and a neighbouring relation of one record.
        records_per_user: k, the most records that one user owns, enforced; 1 to 1000.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range, or the mechanism's unit is not "record".
    """

    name: ClassVar[str] = "group_of_records"

    run: Mechanism
    _: dataclasses.KW_ONLY
    records_per_user: int

    def __post_init__(self) -> None:
        """Checks both fields."""
        if not isinstance(self.run, Mechanism):
            raise TypeError(f"run must be a mechanism; got {self.run!r}.")
        if self.run.unit != "record":
            raise ValueError(
                f"run must have unit 'record'; got {self.run.unit!r}. A guarantee for"
                " users needs no group."
            )
        super().__post_init__()

    @property
    def unit(self) -> str:
        """The privacy unit: "user"."""
        return "user"

    @property
    def neighboring(self) -> str:
        """The relation of the mechanism, for all records of one user."""
        return self.run.neighboring

    def releases(self) -> None:
        """Returns None: the bound is on ε and δ of the whole run, not on a release."""

    @property
    def accountant(self) -> str:
        """What ε and δ of the record rest on."""
        return self.run.accountant

    def rdp(self, orders: Array) -> Array:
        """Refuses: no Rényi divergence of groups is implemented."""
        raise NoRenyiDivergence(
            "No Rényi divergence of a group of records is implemented, and groups cannot be part of"
            " a composition: compose the records' mechanisms, then take the group of that."
        )

    def delta(self, epsilon: float) -> float:
        """Returns the group's δ at `epsilon`, as for :meth:`Mechanism.delta`."""
        epsilon = checked_epsilon(epsilon)
        record = epsilon / self.records_per_user
        delta = self.run.delta(record)
        if delta == 0:
            return 0.0
        log_delta = math.log(delta) + _log_growth(record, self.records_per_user)
        return 1.0 if log_delta >= 0 else math.exp(log_delta)

    def epsilon(self, delta: float) -> float:
        """Returns the group's ε at `delta`, at most 0.01 % too large.

        Raises:
            TypeError: if `delta` is not a number.
            ValueError: as for :meth:`Mechanism.epsilon`, or if no ε meets `delta`: a record's δ is
                not followed below 1e-25, and grows with the size of the group.
        """
        delta = check_delta(delta)
        if self.delta(0.0) <= delta:
            return 0.0
        low = 0.0
        high = max(1e-3, self.records_per_user * self.run.epsilon(delta))
        while self.delta(high) > delta:
            record = high / self.records_per_user
            if record > LARGEST_LOSS or self.run.delta(record) == SMALLEST_DELTA:
                raise ValueError(
                    f"records_per_user={self.records_per_user} at delta={delta:g}: the group bound"
                    " cannot be met at this delta. Use UserLevelDPSGD, which accounts for the"
                    " user's records together, or limit what each user contributes."
                )
            # In small steps: further up the bound may exceed `delta` again.
            low, high = high, 1.1 * high
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.delta(middle) > delta else (low, middle)
        return high


def _log_growth(epsilon: float, k: int) -> float:
    """Returns log((e^{kε} − 1) / (e^ε − 1)), log k at ε = 0."""
    if epsilon == 0:
        return math.log(k)
    return (k - 1) * epsilon + math.log(-math.expm1(-k * epsilon)) - math.log(-math.expm1(-epsilon))
