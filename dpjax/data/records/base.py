"""What all kinds of records share: equally long lists, one record per position."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from dpjax.data.source import RecordFormat

Columns = TypeVar("Columns", bound="RecordColumns")


@dataclasses.dataclass(frozen=True)
class RecordColumns:
    """Base of dataclasses whose fields are lists of one length.

    Attributes:
        owners: whose each record is; None where the source does not say. It is no part of a record.
        record_format: the one of `DataSource` in which the records were read, or would be; auto
            where there is no choice. It is no part of a record either.

    Raises:
        ValueError: the lists differ in length.

    Example:
        >>> from dpjax.data import Records
        >>> first, others = Records(["fine", "dull", "warm"], ["1", "0", "1"]).split_at(1)
        >>> first, len(others)
        (Records(texts=['fine'], labels=['1']), 2)
    """

    owners: list[str] | None = dataclasses.field(default=None, kw_only=True, repr=False)
    record_format: RecordFormat = dataclasses.field(
        default="auto", kw_only=True, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in self._names()}
        if self.owners is not None:
            lengths["owners"] = len(self.owners)
        if len(set(lengths.values())) > 1:
            raise ValueError(", but ".join(f"{length} {name}" for name, length in lengths.items()))

    def __len__(self) -> int:
        return len(self._columns()[0])

    def split_at(self: Columns, position: int) -> tuple[Columns, Columns]:
        """The first `position` records, and the others."""
        if not 0 <= position <= len(self):
            raise ValueError(f"position must be between 0 and {len(self)}, got {position}")
        return self.take(range(position)), self.take(range(position, len(self)))

    def take(self: Columns, rows: Iterable[int]) -> Columns:
        """The records at `rows`, in that order."""
        chosen = list(rows)
        columns = ([column[row] for row in chosen] for column in self._columns())
        owners = None if self.owners is None else [self.owners[row] for row in chosen]
        return type(self)(*columns, owners=owners, record_format=self.record_format)

    def units(self) -> Iterator[bytes]:
        """Every record as bytes that equal records share: what a ledger knows it by."""
        for record in zip(*self._columns(), strict=True):
            yield json.dumps(record, sort_keys=True).encode()

    def _columns(self) -> list[list[Any]]:
        return [getattr(self, name) for name in self._names()]

    def _names(self) -> list[str]:
        return [field.name for field in dataclasses.fields(self) if not field.kw_only]
