"""Values of raw columns, checked: nothing is empty or missing, and problems name every line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from dpjax.data.read.columns import OWNER, TOOLS, RawColumns, described
from dpjax.data.records.tools import Tools, check_tools
from dpjax.data.source import DataSource
from dpjax.data.unicode import has_half_surrogate

_INTEGRAL_FLOAT = re.compile(r"(-?\d+)\.0+")

Checked = tuple[Any, str | None]
"""A value as a record holds it, and what is wrong with it."""


class CheckedColumns(NamedTuple):
    """Columns of checked values: those of the records, whose they are, and their tools.

    Owners and tools are None where the source has no column of them.
    """

    columns: list[list[Any]]
    owners: list[str] | None
    tools: list[Tools] | None


def check_records(
    raw: RawColumns, source: DataSource, check: Callable[..., tuple[Checked, ...]]
) -> CheckedColumns:
    """The columns of checked values, as `check` gives them; with the owners and the tools.

    Owners become strings as labels do.

    Args:
        raw: the columns as they were read.
        source: where they come from, for messages.
        check: what becomes of the values of one record, field by field, but not of its owner and
            its tools.

    Raises:
        ValueError: naming the lines of the records with each problem, never what they hold.
    """
    fields = [values for field, values in raw.values.items() if field not in (OWNER, TOOLS)]
    rows: list[list[Any]] = []
    problems: dict[str, list[int | str]] = {}
    for position, *record in zip(raw.positions, *fields, strict=True):
        checked = check(*record)
        if TOOLS in raw.values:
            has_messages = any(isinstance(value, list) for value, _ in checked)
            checked += (check_tools(raw.values[TOOLS][len(rows)], has_messages=has_messages),)
        if OWNER in raw.values:
            checked += (check_label(raw.values[OWNER][len(rows)], OWNER),)
        rows.append([value for value, _ in checked])
        for _, problem in checked:
            if problem:
                problems.setdefault(problem, []).append(position)
    if problems:
        raise ValueError(
            f"{source.path} ({', '.join(described(source, field) for field in raw.values)}): "
            + "; ".join(_report(*item, raw.position_name) for item in problems.items())
        )
    columns = [list(column) for column in zip(*rows, strict=True)]
    owners = columns.pop() if OWNER in raw.values else None
    tools = columns.pop() if TOOLS in raw.values else None
    return CheckedColumns(columns, owners, tools)


def check_text(value: object, name: str = "text") -> Checked:
    """A text must be a string with something in it, of valid Unicode."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "", f"{name} missing or empty"
    if not isinstance(value, str):
        return "", f"{name} of type {type(value).__name__} instead of str"
    if has_half_surrogate(value):
        return "", f"{name} with half a surrogate pair (not valid Unicode)"
    return value, None


def check_label(value: object, name: str = "label") -> Checked:
    """A label must be a string, an integer or a boolean; it becomes a string without blanks."""
    if isinstance(value, float) and value.is_integer():
        # A column of integers in which a value was missing was stored as floats.
        value = int(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", f"{name} missing or empty"
    if not isinstance(value, (str, int)):
        return "", f"{name} of type {type(value).__name__} instead of str, int or bool"
    if isinstance(value, str) and has_half_surrogate(value):
        return "", f"{name} with half a surrogate pair (not valid Unicode)"
    label = str(value).strip()
    integral = _INTEGRAL_FLOAT.fullmatch(label)
    label = integral[1] if integral else label
    return label, None if label else f"{name} missing or empty"


def _report(problem: str, positions: list[int | str], position_name: str) -> str:
    shown = ", ".join(map(str, positions[:5])) + (", …" if len(positions) > 5 else "")
    plural = "" if len(positions) == 1 else "s"
    return f"{len(positions)} record{plural} with {problem} ({position_name}{plural} {shown})"
