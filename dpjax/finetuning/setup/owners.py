"""Owners of training records, where the guarantee is for them instead of for single records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from dpjax_accounting import (
    DPSGD,
    DatasetIdentity,
    FixedSizeDPSGD,
    FullBatch,
    RandomAllocationDPSGD,
    ShuffledDPSGD,
    Stepwise,
    TruncatedPoissonDPSGD,
    UserSampledDPSGD,
    UserSampledFixedSizeDPSGD,
    UserSampledFullBatch,
    UserSampledRandomAllocationDPSGD,
    UserSampledShuffledDPSGD,
    UserSampledTruncatedPoissonDPSGD,
)

from dpjax.data import DataSource, Owners, RecordColumns
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.tasks.base import Loss
from dpjax.training import Summed


class OwnerTraining(Protocol):
    """What an owner does in a step, where that is more than one gradient: federated training."""

    @property
    def algorithm(self) -> str:
        """Its name."""

    @property
    def summed(self) -> Summed:
        """What a step adds up, in the words of the privacy report."""

    def with_owners(self, records: RecordColumns) -> RecordColumns:
        """Returns the training records with their owners; ValueError if there are too few."""

    def unit_loss(self, loss: Loss) -> Loss:
        """Makes the loss of one owner, whose gradient is what is clipped, of that of a record."""

    def sizes(self, counts: np.ndarray) -> np.ndarray:
        """Returns `(n,)` integers for owners with so many records: equal ones fit together."""

    def arrange(self, rows: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and mask, `(u, k)`, as the loss of an owner has them, `(u, ...)`."""

    def who_is_a_user(self) -> str:
        """Returns the assumption of the privacy report that says what a user is."""

    def rows(self) -> list[tuple[str, str]]:
        """Returns names and values for the table of report.md."""


@dataclasses.dataclass(frozen=True)
class TrainingRecords:
    """The training records that count, and whose they are.

    Attributes:
        used: those that a step may draw.
        owners: of these; None where each record is protected by itself.
        everything: all records of the source.
        all_owners: of these.
    """

    used: RecordColumns
    owners: Owners | None
    everything: RecordColumns
    all_owners: Owners | None

    @classmethod
    def of(
        cls,
        records: RecordColumns,
        config: FinetuneConfig,
        owner_training: OwnerTraining | None = None,
    ) -> TrainingRecords:
        """Leaves out what an owner has too many of, where single records are drawn.

        Raises:
            ValueError: there is one owner only.
        """
        if owner_training is not None:
            records = owner_training.with_owners(records)
        owners = _checked_owners(config.train_data, records)
        if owners is None or config.samples_owners:
            return cls(records, owners, records, owners)
        kept = owners.keep(config.privacy.records_per_owner)
        return cls(records.take(kept), Owners.of(owners.owner_of[kept]), records, owners)

    @property
    def num_left_out(self) -> int:
        """How many records no step may draw."""
        return len(self.everything) - len(self.used)

    def num_units(self, config: FinetuneConfig) -> int:
        """What batches are drawn from: the number of owners or records, whatever coins say."""
        return config.audit.num_units(self.num_protected(config))

    def num_protected(self, config: FinetuneConfig) -> int:
        """How many of them the source has, canaries not among them."""
        sampled = self.owners if config.samples_owners else None
        return len(self.used) if sampled is None else len(sampled)

    def identity(self) -> DatasetIdentity:
        """What a ledger knows the data by: all records as they were read, by their owners."""
        return identity_of(self.everything, self.all_owners)


def _checked_owners(source: DataSource, records: RecordColumns) -> Owners | None:
    if records.owners is None:
        return None
    owners = Owners.of(records.owners)
    if len(owners) == 1:
        raise ValueError(
            f"{source.path}: all {len(records)} records have the same value in owner_column="
            f"{source.owner_column!r}. One owner cannot be hidden among others; is it the right "
            "column?"
        )
    return owners


# The same with owners as units.
_OF_OWNERS: dict[type[Stepwise], type[Stepwise]] = {
    DPSGD: UserSampledDPSGD,
    TruncatedPoissonDPSGD: UserSampledTruncatedPoissonDPSGD,
    FixedSizeDPSGD: UserSampledFixedSizeDPSGD,
    RandomAllocationDPSGD: UserSampledRandomAllocationDPSGD,
    ShuffledDPSGD: UserSampledShuffledDPSGD,
    FullBatch: UserSampledFullBatch,
}


def as_user_sampled(mechanism: Stepwise, records_per_owner: int) -> Stepwise:
    """Returns the mechanism as one of owners: same ε, other unit.

    Raises:
        TypeError: there is none of owners that draws as the mechanism does.
    """
    kind = _OF_OWNERS.get(type(mechanism))
    if kind is None:
        raise TypeError(
            f"owners must be drawn by one of {', '.join(each.__name__ for each in _OF_OWNERS)}, "
            f"got {type(mechanism).__name__}"
        )
    fields = {
        field.name: getattr(mechanism, field.name)
        for field in dataclasses.fields(mechanism)
        if field.name != "unit"
    }
    return kind(**fields, records_per_user=records_per_owner)


def identity_of(records: RecordColumns, owners: Owners | None = None) -> DatasetIdentity:
    """What a ledger knows data by: the records; or those of each owner, whoever that is."""
    if owners is None:
        return DatasetIdentity.of(records.units())
    contents = list(records.units())

    def units() -> Iterator[bytes]:
        for owner in range(len(owners)):
            # Sorted, and each with its length before it: no other records give the same bytes.
            own = sorted(contents[row] for row in owners.rows_of(owner))
            yield b"".join(len(content).to_bytes(8) + content for content in own)

    return DatasetIdentity.of(units(), "user")
