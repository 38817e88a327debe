"""Labelled texts, checked: what a classifier learns from."""

from __future__ import annotations

import dataclasses

from dpjax.data.read.columns import Wanted
from dpjax.data.read.read import read_columns
from dpjax.data.records.base import RecordColumns
from dpjax.data.records.checks import Checked, check_label, check_records, check_text
from dpjax.data.source import DataSource

_LAYOUTS = (("text", "label"),)


@dataclasses.dataclass(frozen=True)
class Records(RecordColumns):
    """Texts and their labels, in the order of the source. Nothing is empty or missing.

    Example:
        >>> len(Records(texts=["A fine film.", "A dull one."], labels=["1", "0"]))
        2
    """

    texts: list[str]
    labels: list[str]


def read_records(source: DataSource) -> Records:
    r"""Reads and checks every record of `source`.

    Texts stay as they are. Labels become strings without surrounding blanks: 1 and 1.0 become
    "1", True becomes "True", and the class numbers of a `datasets` feature become its names.

    Raises:
        FileNotFoundError: there is no such file or dataset; names similar files.
        ValueError: the source cannot be read as said, or a record lacks its text or label. Lines
            are named, but never quoted: they are private.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("reviews.csv").write_text("text,label\nfine film,1\ndull film,0\n")
        >>> read_records(DataSource("reviews.csv"))
        Records(texts=['fine film', 'dull film'], labels=['1', '0'])
    """
    raw = read_columns(Wanted(source, _LAYOUTS))
    checked = check_records(raw, source, _check)
    return Records(*checked.columns, owners=checked.owners)


def _check(text: object, label: object) -> tuple[Checked, Checked]:
    return check_text(text), check_label(label)
