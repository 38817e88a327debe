"""Whose each record is, checked: what a guarantee for people rests on."""

from __future__ import annotations

from dpjax.data.read.columns import Wanted
from dpjax.data.read.read import read_columns
from dpjax.data.records.checks import check_label, check_records
from dpjax.data.source import DataSource


def read_owners(source: DataSource) -> list[str]:
    r"""Reads the owner of every record of `source`, in the order of the records.

    Names become strings without surrounding blanks: 1 and 1.0 become "1".

    Raises:
        FileNotFoundError: there is no such file or dataset; names similar files.
        ValueError: there is no such column, or a record lacks its owner. Lines are named, but never
            quoted: they are private.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("notes.csv").write_text("text,author\nall well,7\nin pain,9\n")
        >>> read_owners(DataSource("notes.csv", owner_column="author"))
        ['7', '9']
    """
    raw = read_columns(Wanted(source, (("owner",),)))
    return check_records(raw, source, lambda owner: (check_label(owner, "owner"),))[0]
