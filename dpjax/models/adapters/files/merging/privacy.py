"""What the privacy reports of several runs say of an adapter that was merged from theirs.

Merging reads no record: it is post-processing of what the runs released. Who was in several runs is
protected by all of them together, and the sum of their ε and of their δ bounds that (basic
composition: Dwork and Roth 2014, theorem 3.16).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpjax_accounting import read_report, verify_report

from dpjax.models.adapters.files.adapter_config import ADAPTER_OF_RUN

PRIVACY_OF_MERGE = "privacy_of_merge.json"
_REPORT = "privacy.json"
_VERSION = 1
_POST_PROCESSING = (
    "The merged adapter is computed from these adapters alone: this spends nothing. Whoever was in "
    "the training data of a single run keeps the guarantee of that run."
)
_CHOICE = (
    "This holds if weights and combination were chosen without looking at private records. dpjax "
    "cannot know how they were chosen."
)
_OTHERS = (
    "Other trainings on the same records, also that of a base that was tuned, add what they spent. "
    "A ledger that has all runs on a data set may give a lower total (dpjax ledger total)."
)


@dataclasses.dataclass(frozen=True)
class FoundReports:
    """The privacy reports of what an adapter was made from.

    Attributes:
        reports: of private runs; their claims hold.
        unknown: what has no guarantee, in words.
        is_found: whether there is any report, also of a run without privacy.
    """

    reports: tuple[Mapping[str, Any], ...]
    unknown: tuple[str, ...]
    is_found: bool


def reports_of(folder: Path) -> FoundReports:
    """Finds and verifies the reports of an adapter.

    They are in its folder: `privacy.json` of a run, or `privacy_of_merge.json` of an adapter that
    was merged. In the folder above is the report of a run whose adapter/ this is.

    Raises:
        ValueError: a report is damaged, or its claim does not hold.
    """
    merged = folder / PRIVACY_OF_MERGE
    if merged.is_file():
        return _reports_of_merge(merged)
    whole = folder.resolve()
    above = [whole.parent] if whole.name == ADAPTER_OF_RUN else []
    path = next((p / _REPORT for p in (folder, *above) if (p / _REPORT).is_file()), None)
    if path is None:
        return FoundReports((), (f"{folder}, which has no privacy report",), False)
    report = read_report(path)
    if isinstance(report, dict) and report.get("private") is False:
        return FoundReports((), (f"{folder}, which was trained without privacy",), True)
    _check(path, report)
    return FoundReports((report,), (), True)


def _reports_of_merge(path: Path) -> FoundReports:
    statement = read_report(path)
    try:
        reports, unknown = tuple(statement["reports"]), tuple(map(str, statement["unknown"]))
        version = statement["schema_version"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): put a copy of it back") from error
    if version != _VERSION:
        raise ValueError(f"{path} must have schema_version {_VERSION}, got {version!r}")
    for report in reports:
        _check(path, report)
    return FoundReports(reports, unknown, True)


def _check(path: Path, report: Any) -> None:
    problems = verify_report(report)
    if problems:
        raise ValueError(
            f"{path} does not hold: {problems[0]} Put the report of the run back, or merge without "
            "this adapter"
        )


def state_privacy(found: Sequence[FoundReports]) -> dict[str, Any] | None:
    """Says what the reports of all adapters mean together; None if there is no report at all.

    Returns:
        What privacy_of_merge.json holds: `reports`, those of the runs, each once; `unknown`, what
        has no guarantee; `total`, ε and δ of who was in all runs, or None where no sum can be
        stated; `statements`, all of it in sentences.
    """
    if not any(reports.is_found for reports in found):
        return None
    distinct: list[Mapping[str, Any]] = []
    for reports in found:
        # Several adapters of one run are one release.
        distinct += [report for report in reports.reports if report not in distinct]
    unknown = list(dict.fromkeys(name for reports in found for name in reports.unknown))
    total = None if unknown else _total(distinct)
    return {
        "schema_version": _VERSION,
        "total": total,
        "statements": _statements(distinct, unknown),
        "unknown": unknown,
        "reports": distinct,
    }


def _total(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The sums, where all runs protect the same unit against the same neighbours."""
    guarantees = [report["guarantee"] for report in reports]
    kinds = {(guarantee["unit"], guarantee["neighboring"]) for guarantee in guarantees}
    if len(kinds) != 1:
        return None
    ((unit, neighboring),) = kinds
    sums = {name: math.fsum(g[name] for g in guarantees) for name in ("epsilon", "delta")}
    return sums | {"unit": unit, "neighboring": neighboring}


def _statements(reports: Sequence[Mapping[str, Any]], unknown: Sequence[str]) -> list[str]:
    lines = [_guarantee(report) for report in reports]
    if reports:
        lines.append(_POST_PROCESSING)
    if len(reports) > 1:
        lines.append(_together(reports))
    lines += [
        f"Nothing is known of {name}: whoever was in its training data has no guarantee."
        for name in unknown
    ]
    if reports:
        lines += [_CHOICE, _OTHERS]
    for report in reports:
        lines += [f"Run {report['run']['id']}: {warning}" for warning in report["warnings"]]
    return lines


def _guarantee(report: Mapping[str, Any]) -> str:
    guarantee = report["guarantee"]
    return (
        f"Run {report['run']['id']}: ε = {guarantee['epsilon']:.4g}, δ = {guarantee['delta']:.3g} "
        f"per {guarantee['unit']}, {guarantee['neighboring'].replace('_', ' ')}."
    )


def _together(reports: Sequence[Mapping[str, Any]]) -> str:
    said = "For people whose records are in the training data of several runs, the ε of these runs "
    total = _total(reports)
    if total is None:
        return (
            f"{said}add up, and so do the δ. No sum is stated: the runs do not protect the same "
            "unit against the same neighbours."
        )
    return (
        f"{said}add up, and so do the δ (basic composition). A {total['unit']} in all of them has "
        f"ε = {total['epsilon']:.4g}, δ = {total['delta']:.3g}."
    )
