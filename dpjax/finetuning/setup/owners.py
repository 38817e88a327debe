"""Owners of training records, where the guarantee is for them instead of for single records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from dpjax_accounting import DPSGD, DatasetIdentity, Stepwise, UserSampledDPSGD

from dpjax.data import DataSource, Owners, RecordColumns, read_owners


def read_train_owners(source: DataSource, records: RecordColumns) -> Owners | None:
    """Returns whose the training records are; None where no column says so.

    Raises:
        ValueError: the column is missing, a record has no owner, there is one owner only, or the
            file has changed since the records were read.
    """
    if source.owner_column is None:
        return None
    names = read_owners(source)
    if len(names) != len(records):
        raise ValueError(
            f"{source.path} has {len(names)} owners and {len(records)} records: it was changed "
            "while it was read. Start again"
        )
    owners = Owners.of(names)
    if len(owners) == 1:
        raise ValueError(
            f"{source.path}: all {len(names)} records have the same value in owner_column="
            f"{source.owner_column!r}. One owner cannot be hidden among others; is it the right "
            "column?"
        )
    return owners


def as_user_sampled(mechanism: Stepwise, records_per_owner: int) -> UserSampledDPSGD:
    """Returns the mechanism as one of owners: same ε, other unit.

    Raises:
        TypeError: the mechanism has no Poisson batches.
    """
    if not isinstance(mechanism, DPSGD):
        raise TypeError(f"owners are sampled by DPSGD, got {type(mechanism).__name__}")
    fields = {
        field.name: getattr(mechanism, field.name)
        for field in dataclasses.fields(mechanism)
        if field.name != "unit"
    }
    return UserSampledDPSGD(**fields, records_per_user=records_per_owner)


def identity_of_owners(records: RecordColumns, owners: Owners) -> DatasetIdentity:
    """What a ledger knows the data by: the records of each owner, whoever that is."""
    contents = list(records.units())

    def units() -> Iterator[bytes]:
        for owner in range(len(owners)):
            # Sorted, and each with its length before it: no other records give the same bytes.
            own = sorted(contents[row] for row in owners.rows_of(owner))
            yield b"".join(len(content).to_bytes(8) + content for content in own)

    return DatasetIdentity.of(units(), "user")
