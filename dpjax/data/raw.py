"""Columns as a reader found them, before texts and labels are checked."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Sequence

from dpjax.data.source import DataSource


@dataclasses.dataclass(frozen=True)
class RawColumns:
    """Two columns of equal length; `positions[i]` says where record i stands in the source."""

    texts: list[object]
    labels: list[object]
    positions: Sequence[int]
    position_name: str
    """What the positions count, from 1: "line" or "row"."""


def check_columns(source: DataSource, columns: Collection[str], place: str) -> None:
    """Refuses a source that lacks the text or the label column.

    Args:
        columns: the columns that exist.
        place: how to call the source in the message.

    Raises:
        ValueError: naming the columns that exist and the nearest one.
    """
    if source.text_column == source.label_column:
        raise ValueError(
            f"text_column and label_column are both {source.text_column!r}; they must differ"
        )
    for option in ("text_column", "label_column"):
        name = getattr(source, option)
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            hint = f" Did you mean {option}={near[0]!r}?" if near else f" Set {option}."
            listed = ", ".join(map(repr, columns)) or "none"
            raise ValueError(f"{place} has no column {name!r}; its columns: {listed}.{hint}")
