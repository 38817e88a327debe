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

from dpjax.data.raw import RawColumns, check_columns
from dpjax.data.source import DataSource

# The largest value that fits a C long everywhere; csv refuses fields over 128 KiB by default.
CSV_FIELD_LIMIT = 2**31 - 1
LONGEST_NAME_SHOWN = 40


def read_delimited(path: Path, source: DataSource) -> RawColumns:
    """Text and label column of a CSV file (standard quoting) or a TSV file (no quoting).

    Raises:
        ValueError: a column is missing, a line has the wrong number of fields, quotes do not
            close, or the bytes are not UTF-8.
    """
    is_csv = path.suffix.lower() == ".csv"
    # Universal newlines would break a text apart at a lone carriage return.
    with _open_text(path, newline="" if is_csv else "\n") as file, _long_csv_fields():
        rows = _csv_rows(file, path) if is_csv else _tsv_rows(file)
        header = _header(rows, path, source)
        text_index = header.index(source.text_column)
        label_index = header.index(source.label_column)
        texts: list[object] = []
        labels: list[object] = []
        lines: list[int] = []
        for line, fields in rows:
            _check_fields(fields, header, line, path, source)
            texts.append(fields[text_index])
            labels.append(fields[label_index])
            lines.append(line)
    return RawColumns(texts, labels, lines, "line")


def read_json_lines(path: Path, source: DataSource) -> RawColumns:
    """Text and label of every JSON object, one per line; blank lines are skipped.

    Raises:
        ValueError: a line is not a JSON object, no object has the column, or the bytes are not
            UTF-8.
    """
    texts: list[object] = []
    labels: list[object] = []
    lines: list[int] = []
    names: dict[str, None] = {}
    with _open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            record = _json_object(line, number, path)
            names.update(dict.fromkeys(record))
            texts.append(record.get(source.text_column))
            labels.append(record.get(source.label_column))
            lines.append(number)
    if lines:
        check_columns(source, names, str(path))
    return RawColumns(texts, labels, lines, "line")


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
    rows: Iterator[tuple[int, list[str]]], path: Path, source: DataSource
) -> tuple[str, ...]:
    if source.column_names is not None:
        header = tuple(source.column_names)
        check_columns(source, header, f"column_names of {path}")
    else:
        header = tuple(name.strip() for name in next(rows, (0, []))[1])
        if not header:
            raise ValueError(f"{path} holds no records")
        if {source.text_column, source.label_column}.isdisjoint(header):
            raise ValueError(_not_a_header(header, path, source))
        check_columns(source, header, str(path))
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: the column name {repeated[0]!r} occurs more than once")
    return header


def _not_a_header(header: tuple[str, ...], path: Path, source: DataSource) -> str:
    wanted = f"{path} has no column {source.text_column!r} and no column {source.label_column!r}"
    if len(header) == 1:
        separator = "comma" if path.suffix.lower() == ".csv" else "tab"
        return (
            f"{wanted}: its first line holds no {separator}. Is the file separated by "
            f"{separator}s, as its extension says?"
        )
    names = f"{source.text_column},{source.label_column}"
    no_header = (
        f"If the file has no header line, name all its columns in order: column_names={names} "
        f"(in Python a tuple, in the shell --…column-names {names.replace(',', ' ')})."
    )
    if not _look_like_names(header):
        return f"{wanted}: its first line does not look like a header. {no_header}"
    near = difflib.get_close_matches(source.text_column, header, n=1)
    hint = f" Did you mean text_column={near[0]!r}?" if near else ""
    return (
        f"{wanted}; its columns: {', '.join(map(repr, header))}.{hint} Set text_column and "
        f"label_column. {no_header}"
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
    fields: list[str], header: tuple[str, ...], line: int, path: Path, source: DataSource
) -> None:
    if len(fields) != len(header):
        named = "column_names" if source.column_names is not None else "the header line"
        advice = (
            "quote texts that hold a comma"
            if path.suffix.lower() == ".csv"
            else "a text must not hold a tab"
        )
        raise ValueError(
            f"{path}, line {line}: {len(fields)} field(s), but {named} has {len(header)}; {advice}"
        )
    if source.column_names is not None and tuple(fields) == header:
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
