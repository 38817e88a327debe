"""Which columns are wanted, and those columns as a reader found them, not checked yet."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from dpjax.basics.option_checks import did_you_mean
from dpjax.data.source import DataSource

Layout = tuple[str, ...]
"""Fields that make up a record, such as ("text", "label"). The column of a field is named by the
option of `DataSource` called after it: `text_column`. Without an option it has the field's name."""

# The field of whose a record is: part of no layout, read with each where a source names its column.
OWNER = "owner"
# The field of the functions that an assistant may call: what a chat template writes of them.
TOOLS = "tools"
# Fields that a source may have beside those of a layout.
_OPTIONAL: dict[Layout, Layout] = {
    ("prompt", "completion"): (TOOLS,),
    ("messages",): (TOOLS,),
    ("conversations",): (TOOLS,),
    ("instruction", "output"): ("input", TOOLS),
    ("chosen", "rejected"): ("prompt", TOOLS),
    # The prompt of preferences, where its column is named.
    ("chosen", "rejected", "prompt"): (TOOLS,),
}

# Columns by their usual names, and the task that learns from them.
_TASKS: dict[Layout, str] = {
    ("chosen", "rejected"): "preference",
    ("messages",): "causal_lm",
    ("conversations",): "causal_lm",
    ("prompt", "completion"): "causal_lm",
    ("tokens", "tags"): "token_classification",
    ("text", "label"): "sequence_classification",
}
# The task of a layout by its first field, where it is not causal_lm.
_FIELDS_OF_TASKS = {"chosen": "preference", "words": "token_classification"}
_NAMES_SHOWN = 20
_LONGEST_NAME_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class RawColumns:
    """Columns of equal length by field; `positions[i]` says where record i stands in the source."""

    values: dict[str, list[object]]
    positions: Sequence[int | str]
    position_name: str
    """What the positions count, from 1: "line", "row" or "record". Of several files each position
    has the file's name before it."""

    @property
    def layout(self) -> Layout:
        """The fields, without those that others of the same layout may lack."""
        fields = tuple(field for field in self.values if field != OWNER)
        for layout, beside in _OPTIONAL.items():
            if set(layout) <= set(fields) <= {*layout, *beside}:
                return layout
        return fields


def column_of(source: DataSource, field: str) -> str:
    """The column that holds a field."""
    name: str = getattr(source, f"{field}_column", field)
    return name


def described(source: DataSource, field: str) -> str:
    """The column of a field as the option that names it, or as a column where there is none."""
    column = column_of(source, field)
    has_option = hasattr(source, f"{field}_column")
    return f"{field}_column={column!r}" if has_option else f"column {column!r}"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The columns to read from a source: those of one of the layouts."""

    source: DataSource
    layouts: tuple[Layout, ...]

    @property
    def formats(self) -> str:
        """The layouts with their columns, for messages."""
        return " or ".join(map(self._described, self.layouts))

    def columns_of(self, layout: Layout) -> dict[str, str]:
        """The column that the source's options name for each field."""
        return {field: column_of(self.source, field) for field in layout}

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns of all layouts."""
        columns = tuple(
            column
            for layout in self.layouts
            for column in self.columns_of(layout + _OPTIONAL.get(layout, ())).values()
        )
        return columns if self.source.owner_column is None else (*columns, self.source.owner_column)

    def choose(self, columns: Collection[str], place: str) -> dict[str, str]:
        """The layout that the source has, as column by field, with the owner where one is named.

        Args:
            columns: the columns that exist.
            place: how to call the source in the message.

        Raises:
            ValueError: no layout is there, or several are, or the owner is not; names the columns
                that exist and the nearest one.
        """
        for layout in self.layouts:
            self._check_distinct(layout)
        present = [layout for layout in self.layouts if not self._missing(layout, columns)]
        if len(present) == 1:
            named = self.columns_of(present[0])
            beside = self.columns_of(_OPTIONAL.get(present[0], ()))
            # A column that the options give another meaning is no optional one.
            free = set(columns) - set(named.values()) - {self.source.owner_column}
            there = {field: column for field, column in beside.items() if column in free}
            return named | there | self._owner(columns, place)
        if present:
            raise ValueError(
                f"{place} has the columns of {len(present)} formats, "
                f"{' and '.join(map(self._described, present))}; set record_format to one of "
                f"{', '.join(repr('_'.join(layout)) for layout in present)}"
            )
        raise ValueError(self._absent(columns, place))

    def _owner(self, columns: Collection[str], place: str) -> dict[str, str]:
        name = self.source.owner_column
        if name is None:
            return {}
        if name not in columns:
            hint = did_you_mean(name, columns, prefix="owner_column=") or " Set owner_column."
            raise ValueError(
                f"{place} has no column {name!r}; its columns: {_listed(columns)}.{hint}"
            )
        return {OWNER: name}

    def _check_distinct(self, layout: Layout) -> None:
        columns = self.columns_of(layout)
        if len(set(columns.values())) < len(columns):
            options = " and ".join(f"{field}_column" for field in layout)
            raise ValueError(f"{options} are both {columns[layout[0]]!r}; they must differ")

    def _missing(self, layout: Layout, columns: Collection[str]) -> list[str]:
        named = self.columns_of(layout)
        return [field for field in layout if named[field] not in columns]

    def _described(self, layout: Layout) -> str:
        columns = " and ".join(map(repr, self.columns_of(layout).values()))
        return f"{'_'.join(layout)} ({columns})"

    def _absent(self, columns: Collection[str], place: str) -> str:
        listed = _listed(columns)
        # Where half of the columns is there, the other half is what is misspelt.
        nearest = sorted(
            self.layouts, key=lambda layout: len(self._missing(layout, columns)) / len(layout)
        )
        partly = [x for x in nearest if len(self._missing(x, columns)) < len(x)]
        hints = (self._hint(layout, columns) for layout in partly or nearest)
        hint = next(filter(None, hints), None)
        hint = self._other_task(columns) or hint
        if len(self.layouts) == 1:
            field = self._missing(self.layouts[0], columns)[0]
            wrong = f"has no column {self.columns_of(self.layouts[0])[field]!r}"
            has_option = hasattr(self.source, f"{field}_column")
            hint = hint or (f"Set {field}_column." if has_option else "Rename the column.")
        else:
            wrong = f"has the columns of no format: {self.formats}"
            if partly and not hint:
                field = self._missing(partly[0], columns)[0]
                hint = f"For {'_'.join(partly[0])} there is no column {field!r}. Rename a column."
            hint = (
                hint or "Set text_column, prompt_column and completion_column, or messages_column."
            )
        return f"{place} {wrong}; its columns: {listed}. {hint}"

    def _hint(self, layout: Layout, columns: Collection[str]) -> str:
        field = self._missing(layout, columns)[0]
        if not hasattr(self.source, f"{field}_column"):
            return ""
        named = self.columns_of(layout)
        # A column of another field of the record is not meant.
        free = [column for column in columns if column not in named.values()]
        return did_you_mean(named[field], free, prefix=f"{field}_column=").strip()

    def _other_task(self, columns: Collection[str]) -> str:
        """Says which task learns from these columns, where they are those of another one."""
        own = {_FIELDS_OF_TASKS.get(layout[0], "causal_lm") for layout in self.layouts}
        if ("text", "label") in self.layouts:
            own = {"sequence_classification"}
        tasks = (task for usual, task in _TASKS.items() if set(usual) <= set(columns))
        task = next((task for task in tasks if task not in own), None)
        return "" if task is None else f"Files with these columns are for task={task}."


def check_names(names: Iterable[str], place: str) -> None:
    """Refuses columns of one name: which of them is meant cannot be told.

    Raises:
        ValueError: naming the first of them.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{place}: the column name {shorten(repeated[0])} occurs more than once")


def _listed(names: Collection[str]) -> str:
    shown = [shorten(name) for name in list(names)[:_NAMES_SHOWN]]
    num_hidden = len(names) - len(shown)
    if num_hidden > 0:
        shown.append(f"… ({num_hidden} more)")
    return ", ".join(shown) or "none"


def shorten(name: str) -> str:
    """A name in quotes, cut where it is long."""
    short = name if len(name) <= _LONGEST_NAME_SHOWN else name[: _LONGEST_NAME_SHOWN - 1] + "…"
    return repr(short)
