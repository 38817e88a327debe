"""JSON Lines, read value by value without guessing a type."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from dpjax.data.read.columns import RawColumns, Wanted
from dpjax.data.read.text_lines import open_lines

_ARRAY = "holds a JSON array; one object per line is needed: `jq -c '.[]' array.json > lines.jsonl`"


class _RepeatedNameError(Exception):
    """An object has a name twice."""


def read_json_lines(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of JSON objects, one per line; blank lines are skipped.

    Raises:
        ValueError: a line is not a JSON object, no object has the column, or the bytes are not
            UTF-8.
    """
    records: list[dict[str, object]] = []
    lines: list[int] = []
    names: dict[str, None] = {}
    with open_lines(path, newline="\n") as read:
        for number, line in enumerate(read, start=1):
            if not line.strip():
                continue
            record = _json_object(line, number, path)
            names.update(dict.fromkeys(record))
            records.append({name: record.get(name) for name in wanted.all_columns})
            lines.append(number)
    chosen = wanted.choose(names, str(path)) if lines else {}
    values = {field: [record[name] for record in records] for field, name in chosen.items()}
    return RawColumns(values, lines, "line")


def _json_object(line: str, number: int, path: Path) -> dict[str, object]:
    try:
        record = json.loads(line, object_pairs_hook=_object)
    except _RepeatedNameError:
        raise ValueError(
            f"{path}, line {number}: an object has a name twice, and which value counts cannot be "
            "told; one value for each name is needed"
        ) from None
    except json.JSONDecodeError as error:
        if number == 1 and line.lstrip().startswith("["):
            raise ValueError(f"{path} {_ARRAY}") from None
        # Neither the line nor the exception that holds it is passed on: it is private text.
        raise ValueError(
            f"{path}, line {number}: malformed JSON at column {error.colno}: {error.msg}; one "
            "complete object per line is needed"
        ) from None
    except RecursionError:
        raise ValueError(
            f"{path}, line {number}: lists or objects nested too deeply to be read; remove them"
        ) from None
    except ValueError:
        # All that is left is an integer of more digits than Python converts.
        raise ValueError(
            f"{path}, line {number}: an integer of more than {sys.get_int_max_str_digits()} "
            "digits; write it as a string"
        ) from None
    if isinstance(record, list):
        raise ValueError(f"{path} {_ARRAY}")
    if not isinstance(record, dict):
        raise ValueError(
            f"{path}, line {number} holds a {type(record).__name__}, not an object with columns"
        )
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _RepeatedNameError
    return values
