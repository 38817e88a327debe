"""Labelled texts, checked: what a classifier learns from."""

from __future__ import annotations

import dataclasses
import math
import re

from dpjax.data.read.columns import Wanted
from dpjax.data.read.read import read_columns
from dpjax.data.records.base import RecordColumns
from dpjax.data.records.checks import Checked, check_records, check_text
from dpjax.data.source import DataSource
from dpjax.data.unicode import has_half_surrogate

_LAYOUTS = (("text", "label"),)
_INTEGRAL_FLOAT = re.compile(r"(-?\d+)\.0+")


@dataclasses.dataclass(frozen=True)
class Records(RecordColumns):
    """Texts and their labels, in the order of the source. Nothing is empty or missing."""

    texts: list[str]
    labels: list[str]


def read_records(source: DataSource) -> Records:
    """Reads and checks every record of `source`.

    Texts stay as they are. Labels become strings without surrounding blanks: 1 and 1.0 become
    "1", True becomes "True", and the class numbers of a `datasets` feature become its names.

    Raises:
        FileNotFoundError: there is no such file or dataset; names similar files.
        ValueError: the source cannot be read as said, or a record lacks its text or label. Lines
            are named, but never quoted: they are private.
    """
    raw = read_columns(Wanted(source, _LAYOUTS))
    return Records(*check_records(raw, source, _check))


def _check(text: object, label: object) -> tuple[Checked, Checked]:
    return check_text(text), _check_label(label)


def _check_label(value: object) -> Checked:
    if isinstance(value, float) and value.is_integer():
        # A column of integers in which a value was missing was stored as floats.
        value = int(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", "label missing or empty"
    if not isinstance(value, (str, int)):
        return "", f"label of type {type(value).__name__} instead of str, int or bool"
    if isinstance(value, str) and has_half_surrogate(value):
        return "", "label with half a surrogate pair (not valid Unicode)"
    label = str(value).strip()
    integral = _INTEGRAL_FLOAT.fullmatch(label)
    label = integral[1] if integral else label
    return label, None if label else "label missing or empty"
