"""CSV and TSV, read value by value without guessing a type.

The standard library is used rather than the loaders of `datasets`: those write a copy of the
private text into a cache, take a date or "NA" for something other than text, and shift the
columns when a row has a field too many.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpjax.basics.option_checks import did_you_mean
from dpjax.data.read.columns import RawColumns, Wanted, check_names
from dpjax.data.read.text_lines import kind_of, open_lines

# The largest value that fits a C long everywhere; csv refuses fields over 128 KiB by default.
CSV_FIELD_LIMIT = 2**31 - 1
LONGEST_NAME_SHOWN = 40
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Fields of lists.
_LISTS = {
    "messages": "messages are lists of objects",
    "conversations": "messages are lists of objects",
    "words": "words and tags are lists",
}


def read_delimited(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of a CSV file (standard quoting) or a TSV file (no quoting).

    Raises:
        ValueError: a column is missing or holds messages, a line has the wrong number of fields,
            quotes do not close, or the bytes are not UTF-8.
    """
    is_csv = kind_of(path) == ".csv"
    # Universal newlines would break a text apart at a lone carriage return.
    with open_lines(path, newline="" if is_csv else "\n") as lines_read, _long_csv_fields():
        rows = _csv_rows(lines_read, path) if is_csv else _tsv_rows(lines_read)
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


@contextmanager
def _long_csv_fields() -> Iterator[None]:
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _csv_rows(lines: Iterator[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, strict=True)
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


def _tsv_rows(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
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
    check_names(header, str(path))
    for field, held in _LISTS.items():
        if field in chosen:
            raise ValueError(
                f"{path}: {held}, which a {kind_of(path)} file cannot hold; write one JSON object "
                "per line into a .jsonl file"
            )
    return header, chosen


def _not_a_header(header: tuple[str, ...], path: Path, wanted: Wanted) -> str:
    absent = f"{path} has the columns of no format, {wanted.formats}"
    if len(wanted.layouts) == 1:
        named = wanted.columns_of(wanted.layouts[0]).values()
        absent = f"{path} has no column {' and no column '.join(map(repr, named))}"
    # Lists are not in such a file, and the layout that fits the number of columns is likeliest.
    layouts = [layout for layout in wanted.layouts if _LISTS.keys().isdisjoint(layout)]
    layouts = layouts or list(wanted.layouts)
    layout = min(layouts, key=lambda layout: abs(len(layout) - len(header)))
    columns = wanted.columns_of(layout)
    other = max(_SEPARATORS, key=header[0].count)
    parts = tuple(header[0].split(other))
    if len(header) == 1 < len(parts) and _look_like_names(parts):
        return (
            f"{absent}: its first line is separated by {_SEPARATORS[other]}, but a "
            f"{kind_of(path)} file by {_SEPARATORS[',' if kind_of(path) == '.csv' else chr(9)]}. "
            "Save it so"
        )
    if len(header) < len(layout):
        separator = "comma" if kind_of(path) == ".csv" else "tab"
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
    hint = did_you_mean(columns[layout[0]], header, prefix=f"{layout[0]}_column=")
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
            if kind_of(path) == ".csv"
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
