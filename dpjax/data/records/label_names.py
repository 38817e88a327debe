"""The set of labels a classifier chooses from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from dpjax.basics.option_checks import did_you_mean

MANY_LABELS = 20

_INTEGER = re.compile(r"-?\d+")


class Labelled(Protocol):
    """Records with labels: one each, or one for each word."""

    @property
    def labels(self) -> list[str]:
        """All labels."""


def label_names(train: Labelled, evaluation: Labelled | None = None) -> tuple[str, ...]:
    """The labels of the training data, sorted: as numbers if all are integers, else as text.

    The set of labels is treated as public: it is written into the model folder without noise. If
    the mere presence of a label would give somebody away, merge rare labels beforehand.

    Raises:
        ValueError: fewer than two labels, almost as many labels as records (a column of free text,
            which is not shown), or a label that occurs only in the evaluation data.

    Example:
        >>> from dpjax.data import Records
        >>> label_names(Records(["fine", "dull", "warm", "grim"], ["10", "9", "10", "9"]))
        ('9', '10')
    """
    num_labels = len(train.labels)
    names = _sorted(set(train.labels))
    if len(names) < 2:
        raise ValueError(
            f"the training data has only the label(s) {_listed(names) or 'none'} in {num_labels} "
            "record(s); a classifier needs at least two"
        )
    if len(names) > max(MANY_LABELS, num_labels / 2):
        raise ValueError(
            f"{len(names)} different labels in {num_labels} training records: label_column seems "
            "to name something other than a class"
        )
    if evaluation is not None:
        _check_known(evaluation, names)
    return names


def _check_known(evaluation: Labelled, names: tuple[str, ...]) -> None:
    counts = Counter(evaluation.labels)
    unknown = _sorted(set(counts) - set(names))
    if not unknown:
        return
    counted = ", ".join(
        f"{name!r} ({counts[name]} of {len(evaluation.labels)})" for name in unknown[:10]
    )
    hint = did_you_mean(unknown[0], names)
    raise ValueError(
        f"{len(unknown)} label(s) occur only in the evaluation data: {counted}. The training data "
        f"has {_listed(names)}.{hint} Remove those records or add such records to the training "
        "data."
    )


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    names = sorted(names)
    if all(_INTEGER.fullmatch(name) for name in names):
        names.sort(key=int)
    return tuple(names)


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return f"{shown}, … ({len(names)} labels)" if len(names) > 10 else shown
