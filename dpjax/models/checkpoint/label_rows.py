"""Label names and the order of the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpjax.models.checkpoint.files import is_writable


def check_label_names(label_names: Sequence[str]) -> None:
    """Raise ValueError unless there are at least two names, all different, that a file can hold.

    Example:
        >>> check_label_names(("no", "yes"))
        >>> check_label_names(("no", "no"))
        Traceback (most recent call last):
            ...
        ValueError: label names repeat: ['no', 'no']
    """
    if isinstance(label_names, str) or len(label_names) < 2:
        raise ValueError(f"a classifier needs at least two label names, got {label_names!r}")
    if len(set(label_names)) != len(label_names):
        raise ValueError(f"label names repeat: {list(label_names)}")
    for name in label_names:
        if not is_writable(name):
            raise ValueError(
                f"the label {name!r} holds half a surrogate pair, which no file can hold; correct "
                "the text"
            )


def label_order(raw_config: Mapping[str, Any], label_names: Sequence[str]) -> list[int]:
    """For each label the row of a checkpoint's head that stands for it.

    Rows are matched by name where config.json (`id2label`) names the same labels; otherwise they
    are taken in the order in which they stand.
    """
    given = raw_config.get("id2label") or {}
    if not isinstance(given, dict) or not all(row.isdecimal() for row in given):
        raise ValueError(
            f"config.json: id2label must map the rows of the head to names, got {given!r:.200}"
        )
    names = {int(row): str(name) for row, name in given.items()}
    rows = {name: row for row, name in names.items()}
    if sorted(rows) == sorted(label_names) and sorted(names) == list(range(len(label_names))):
        return [rows[name] for name in label_names]
    return list(range(len(label_names)))
