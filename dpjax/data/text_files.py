"""CSV, TSV and JSON Lines, read value by value without guessing a type.

The standard library is used rather than the loaders of `datasets`: those write a copy of the
private text into a cache, take a date or "NA" for something other than text, and shift the
columns when a row has a field too many.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from dpjax.data.raw import RawColumns, Wanted

# The largest value that fits a C long everywhere; csv refuses fields over 128 KiB by default.
CSV_FIELD_LIMIT = 2**31 - 1
LONGEST_NAME_SHOWN = 40


def read_delimited(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of a CSV file (standard quoting) or a TSV file (no quoting).

    Raises:
        ValueError: a column is missing or holds messages, a line has the wrong number of fields,
            quotes do not close, or the bytes are not UTF-8.
    """
    is_csv = path.suffix.lower() == ".csv"
    # Universal newlines would break a text apart at a lone carriage return.
    with _open_text(path, newline="" if is_csv else "\n") as file, _long_csv_fields():
        rows = _csv_rows(file, path) if is_csv else _tsv_rows(file)
        header, chosen = _header(rows, path, wanted)
        indices = {field: header.index(column) for field, column in chosen.items()}
        values: dict[str, list[object]] = {field: [] for field in chosen}
        lines: list[int] = []
        for line, fields in rows:
            _check_fields(fields, header, line, path, wanted)
            for field, index in indices.items():
                values[field].append(fields[index])
            lines.append(line)
    return RawColumns(values, lines, "line")


def read_json_lines(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of JSON objects, one per line; blank lines are skipped.

    Raises:
        ValueError: a line is not a JSON object, no object has the column, or the bytes are not
            UTF-8.
    """
    records: list[dict[str, object]] = []
    lines: list[int] = []
    names: dict[str, None] = {}
    with _open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            record = _json_object(line, number, path)
            names.update(dict.fromkeys(record))
            records.append({name: record.get(name) for name in wanted.all_columns})
            lines.append(number)
    chosen = wanted.choose(names, str(path)) if lines else {}
    values = {field: [record[name] for record in records] for field, name in chosen.items()}
    return RawColumns(values, lines, "line")


@contextmanager
def _open_text(path: Path, newline: str) -> Iterator[TextIO]:
    # utf-8-sig drops the byte order mark that spreadsheet programs put before the first name.
    with path.open(encoding="utf-8-sig", newline=newline) as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(
                f"{path} is not UTF-8 text (byte 0x{byte:02x}: {error.reason}); convert it, for "
                "instance with `iconv -f LATIN1 -t UTF-8`"
            ) from None


@contextmanager
def _long_csv_fields() -> Iterator[None]:
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _csv_rows(file: TextIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, strict=True)
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}, record that starts in line {line}: {error}. A text that holds quotes is "
                'itself quoted and its quotes doubled: "she said ""no"""'
            ) from None
        if fields:
            yield line, fields
        line = reader.line_num + 1


def _tsv_rows(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(file, start=1):
        fields = line.rstrip("\r\n")
        if fields:
            yield number, fields.split("\t")


def _header(
    rows: Iterator[tuple[int, list[str]]], path: Path, wanted: Wanted
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of all columns, and the wanted ones by field."""
    if wanted.source.column_names is not None:
        header = tuple(wanted.source.column_names)
        chosen = wanted.choose(header, f"column_names of {path}")
    else:
        header = tuple(name.strip() for name in next(rows, (0, []))[1])
        if not header:
            raise ValueError(f"{path} holds no records")
        if set(wanted.all_columns).isdisjoint(header):
            raise ValueError(_not_a_header(header, path, wanted))
        chosen = wanted.choose(header, str(path))
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: the column name {repeated[0]!r} occurs more than once")
    if "messages" in chosen:
        raise ValueError(
            f"{path}: messages are lists of objects, which a {path.suffix} file cannot hold; write "
            "one JSON object per line into a .jsonl file"
        )
    return header, chosen


def _not_a_header(header: tuple[str, ...], path: Path, wanted: Wanted) -> str:
    absent = f"{path} has no column {' and no column '.join(map(repr, wanted.all_columns))}"
    # Messages are not in such a file, and the layout that fits the number of columns is likeliest.
    layouts = [layout for layout in wanted.layouts if layout != ("messages",)] or wanted.layouts
    layout = min(layouts, key=lambda layout: abs(len(layout) - len(header)))
    columns = wanted.columns_of(layout)
    if len(header) < len(layout):
        separator = "comma" if path.suffix.lower() == ".csv" else "tab"
        return (
            f"{absent}: its first line holds no {separator}. Is the file separated by "
            f"{separator}s, as its extension says?"
        )
    names = ",".join(columns.values())
    no_header = (
        f"If the file has no header line, name all its columns in order: column_names={names} "
        f"(in Python a tuple, in the shell --…column-names {names.replace(',', ' ')})."
    )
    if len(header) == 1:
        # It would be the whole of a record, and a short one looks like a name.
        return f"{absent}: its only column is called otherwise. Set {layout[0]}_column. {no_header}"
    if not _look_like_names(header):
        return f"{absent}: its first line does not look like a header. {no_header}"
    near = difflib.get_close_matches(columns[layout[0]], header, n=1)
    hint = f" Did you mean {layout[0]}_column={near[0]!r}?" if near else ""
    options = " and ".join(f"{field}_column" for field in layout)
    return (
        f"{absent}; its columns: {', '.join(map(repr, header))}.{hint} Set {options}. {no_header}"
    )


def _look_like_names(fields: tuple[str, ...]) -> bool:
    # Where the header line is missing these are somebody's private text, not to be shown.
    return all(
        0 < len(field) <= LONGEST_NAME_SHOWN
        and len(field.split()) <= 5
        and not field.lstrip("-").replace(".", "").isdigit()
        for field in fields
    )


def _check_fields(
    fields: list[str], header: tuple[str, ...], line: int, path: Path, wanted: Wanted
) -> None:
    without_header = wanted.source.column_names is not None
    if len(fields) != len(header):
        named = "column_names" if without_header else "the header line"
        advice = (
            "quote texts that hold a comma"
            if path.suffix.lower() == ".csv"
            else "a text must not hold a tab"
        )
        raise ValueError(
            f"{path}, line {line}: {len(fields)} field(s), but {named} has {len(header)}; {advice}"
        )
    if without_header and tuple(fields) == header:
        raise ValueError(
            f"{path}, line {line} repeats column_names: the file has a header line, so leave "
            "column_names out"
        )


def _json_object(line: str, number: int, path: Path) -> dict[str, object]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        if number == 1 and line.lstrip().startswith("["):
            raise ValueError(f"{path} {_ARRAY}") from None
        # Neither the line nor the exception that holds it is passed on: it is private text.
        raise ValueError(
            f"{path}, line {number}: malformed JSON at column {error.colno}: {error.msg}; one "
            "complete object per line is needed"
        ) from None
    if isinstance(record, list):
        raise ValueError(f"{path} {_ARRAY}")
    if not isinstance(record, dict):
        raise ValueError(
            f"{path}, line {number} holds a {type(record).__name__}, not an object with columns"
        )
    return record


_ARRAY = "holds a JSON array; one object per line is needed: `jq -c '.[]' array.json > lines.jsonl`"
