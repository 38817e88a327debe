"""What all kinds of records share: equally long lists, one record per position."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from dpjax.data.records.tools import Tools
from dpjax.data.source import RecordFormat

Columns = TypeVar("Columns", bound="RecordColumns")
WithTools = TypeVar("WithTools", bound="RecordsWithTools")


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


@dataclasses.dataclass(frozen=True)
class RecordsWithTools(RecordColumns):
    """Base of records of messages, for which a chat template may write definitions of functions.

    Attributes:
        tools: those of each record, which are a part of it; None where no record has any.
    """

    tools: list[Tools] | None = dataclasses.field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tools is None:
            return
        if len(self.tools) != len(self):
            raise ValueError(f"{len(self.tools)} tools, but {len(self)} records")
        if not any(self.tools):
            object.__setattr__(self, "tools", None)

    def tools_of(self, row: int) -> Tools:
        """The tools of one record; none where it has none."""
        return self.tools[row] if self.tools else []

    def take(self: WithTools, rows: Iterable[int]) -> WithTools:
        """The records at `rows`, in that order."""
        chosen = list(rows)
        tools = self.tools and [self.tools[row] for row in chosen]
        return dataclasses.replace(super().take(chosen), tools=tools)

    def units(self) -> Iterator[bytes]:
        """Every record as bytes that equal records share."""
        for row, unit in enumerate(super().units()):
            tools = self.tools_of(row)
            yield unit + (json.dumps(tools, sort_keys=True).encode() if tools else b"")
