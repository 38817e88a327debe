"""Scores that another program computed, read from CSV files and joined by id."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

import numpy as np

from dpjax.audit.reports.audit_report import CanaryScores
from dpjax.basics.option_checks import did_you_mean

_COLUMNS = ("id", "score")


def read_scores(path: str | Path) -> dict[str, float]:
    """Returns the scores in a CSV file with the columns id and score, by id.

    Args:
        path: of the file, in UTF-8, with a header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, an id is empty or there twice, or a score is no number.
    """
    scores: dict[str, float] = {}
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        for name in _COLUMNS:
            if name not in (rows.fieldnames or ()):
                present = list(rows.fieldnames or ())
                raise ValueError(
                    f"{path} needs the columns id and score; its header is"
                    f" {', '.join(present) or 'missing'}.{did_you_mean(name, present)}"
                )
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            name = (row["id"] or "").strip()
            if not name:
                raise ValueError(f"{where}: the id is empty.")
            if name in scores:
                raise ValueError(f"{where}: the id {name!r} is there twice.")
            try:
                scores[name] = float(row["score"])
            except (TypeError, ValueError):
                raise ValueError(f"{where}: the score {row['score']!r} is no number.") from None
    if not scores:
        raise ValueError(f"{path} holds no scores.")
    return scores


def join_scores(
    members: dict[str, float],
    nonmembers: dict[str, float],
    *,
    expected_ids: Collection[str] | None = None,
    score: str = "score",
) -> CanaryScores:
    """Returns the canaries of both files, ordered by id.

    Args:
        members: scores of canaries in training, by id.
        nonmembers: scores of those that a coin kept out.
        expected_ids: of a manifest: all of them must be there, and no other.
        score: name of the score.

    Raises:
        ValueError: if an id is on both sides, unknown or missing.

    Example:
        >>> join_scores({"a": 2.0}, {"b": 1.0}).included.tolist()
        [True, False]
    """
    both = sorted(members.keys() & nonmembers.keys())
    if both:
        raise ValueError(f"these ids are members and non-members: {_some(both)}.")
    ids = sorted(members.keys() | nonmembers.keys())
    if expected_ids is not None:
        missing, unknown = set(expected_ids) - set(ids), set(ids) - set(expected_ids)
        if missing:
            raise ValueError(f"these ids of the manifest have no score: {_some(sorted(missing))}.")
        if unknown:
            name = min(unknown)
            hint = did_you_mean(name, sorted(expected_ids))
            raise ValueError(f"the manifest has no id {name!r}.{hint}")
    return CanaryScores(
        ids=ids,
        included=np.array([name in members for name in ids]),
        scores=np.array([members.get(name, nonmembers.get(name)) for name in ids], dtype=float),
        score=score,
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
