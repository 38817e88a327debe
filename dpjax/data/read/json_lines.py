"""JSON Lines, and a JSON file that is one list, read value by value without guessing a type."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from dpjax.data.read.columns import RawColumns, Wanted
from dpjax.data.read.text_lines import kind_of, open_lines

_ARRAY = (
    "holds a JSON array; let its name end in .json, or write one object per line: "
    "`jq -c '.[]' array.json > lines.jsonl`"
)


class RepeatedNameError(Exception):
    """An object has a name twice."""


def read_json_lines(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of JSON objects, one per line; blank lines are skipped.

    A .json file may instead be one list of objects, over as many lines as it likes.

    Raises:
        ValueError: a line or an element of the list is not a JSON object, no object has the column,
            or the bytes are not UTF-8.
    """
    records: list[dict[str, object]] = []
    places: list[int] = []
    names: dict[str, None] = {}
    with open_lines(path, newline="\n") as read:
        lines = enumerate(read, start=1)
        number, first = next(((n, line) for n, line in lines if line.strip()), (1, ""))
        is_list = kind_of(path) == ".json" and first.lstrip().startswith("[")
        place_name = "record" if is_list else "line"
        whole = chain([(number, first)], lines)
        for place, record in _elements(whole, path) if is_list else _objects(whole, path):
            if not isinstance(record, dict):
                raise ValueError(
                    f"{path}, {place_name} {place} holds a {type(record).__name__}, not an object "
                    "with columns"
                )
            names.update(dict.fromkeys(record))
            records.append({name: record.get(name) for name in wanted.all_columns})
            places.append(place)
    chosen = wanted.choose(names, str(path)) if places else {}
    values = {field: [record[name] for record in records] for field, name in chosen.items()}
    return RawColumns(values, places, place_name)


def _elements(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, object]]:
    """The elements of the one list that the file is, and their numbers from 1."""
    number, first = next(lines)
    text = first + "".join(line for _, line in lines)
    return enumerate(_parsed(text, path, number, "one complete list"), start=1)


def _objects(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, object]]:
    for number, line in lines:
        if not line.strip():
            continue
        if number == 1 and line.lstrip().startswith("["):
            raise ValueError(f"{path} {_ARRAY}")
        value = _parsed(line, path, number, "one complete object per line")
        if isinstance(value, list):
            raise ValueError(f"{path} {_ARRAY}")
        yield number, value


def _parsed(text: str, path: Path, first: int, needed: str) -> Any:
    """What the text says, whose first line is this one of the file."""
    place = f"{path}, line {first}" if needed.endswith("line") else f"{path}"
    try:
        return json.loads(text, object_pairs_hook=unique_names)
    except RepeatedNameError:
        raise ValueError(
            f"{place}: an object has a name twice, and which value counts cannot be "
            "told; one value for each name is needed"
        ) from None
    except json.JSONDecodeError as error:
        # Neither the text nor the exception that holds it is passed on: it is private.
        raise ValueError(
            f"{path}, line {first + error.lineno - 1}: malformed JSON at column {error.colno}: "
            f"{error.msg}; {needed} is needed"
        ) from None
    except RecursionError:
        raise ValueError(
            f"{place}: lists or objects nested too deeply to be read; remove them"
        ) from None
    except ValueError:
        # All that is left is an integer of more digits than Python converts.
        raise ValueError(
            f"{place}: an integer of more than {sys.get_int_max_str_digits()} "
            "digits; write it as a string"
        ) from None


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these names and values, for `json.loads`.

    Raises:
        RepeatedNameError: a name occurs twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        raise RepeatedNameError
    return values
