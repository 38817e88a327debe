"""Several audits side by side, such as one with privacy and one without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpjax_accounting import (
    Block,
    Heading,
    Paragraph,
    Table,
    html_document,
    markdown_document,
)

from dpjax.audit.reports.audit_page import describe_attack, describe_number
from dpjax.audit.reports.audit_pictures import draw_audit_roc, draw_scores


def comparison_markdown(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns several audits, one column each, as Markdown.

    Args:
        reports: by name, as :func:`dpjax.audit.build_audit_report` returns them.

    Raises:
        ValueError: there is no report.
    """
    return markdown_document(_in_words(reports))


def comparison_page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns several audits as an HTML page with their curves in one picture.

    Args:
        reports: by name, as :func:`dpjax.audit.build_audit_report` returns them.

    Raises:
        ValueError: there is no report.
    """
    blocks = _in_words(reports)
    pictures = {
        "How many of those in training each attack finds (TPR) at each rate of false alarms (FPR),"
        " and the most that each claim allows": draw_audit_roc(reports)
    }
    for name, report in reports.items():
        what = report["audited"]
        title = f"{name}: scores of the {what} that training saw, and of those that it did not"
        pictures[title] = draw_scores(report)
    return html_document(blocks, title="Privacy audits", pictures=pictures)


def _in_words(reports: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    if not reports:
        raise ValueError("reports must hold at least one audit, got none.")
    header = ("", *reports)
    rows = zip(*(_column(report) for report in reports.values()), strict=True)
    names = (
        "verdict",
        "audited, of them in training",
        "score",
        "claimed ε",
        "certified ε, at least",
        "model-based ε, at least",
        "AUC",
        "TPR at a low FPR",
    )
    table = Table(header, tuple((name, *row) for name, row in zip(names, rows, strict=True)))
    levels = {report["attack"]["fpr_level"] for report in reports.values()}
    return [
        Heading("Privacy audits", level=1),
        table,
        Paragraph(
            f"The low FPR is {' or '.join(f'{100 * level:g} %' for level in sorted(levels))}."
            " Intervals have a confidence of 95 %. Certified bounds hold for any training; AUC and"
            " TPR describe these audits and these attacks."
        ),
        *_extraction(reports),
        Heading("Verdicts"),
        *(
            Paragraph(f"{name}: {report['verdict']['sentence']}")
            for name, report in reports.items()
        ),
    ]


def _column(report: Mapping[str, Any]) -> tuple[str, ...]:
    included = sum(canary["included"] for canary in report["canaries"])
    claimed = report["claimed_epsilon"]
    return (
        report["verdict"]["conclusion"],
        f"{len(report['canaries'])} {report['audited']}, {included}",
        report["score"],
        "none" if claimed is None else describe_number(claimed),
        describe_number(report["certified"]["epsilon"]),
        describe_number(report["model_based"]["epsilon"]),
        *describe_attack(report["attack"]),
    )


def _extraction(reports: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """The figures that any of the audits has: of canaries in training, and of the others."""
    figures = {
        name: {figure["name"]: figure for figure in report["extraction"]}
        for name, report in reports.items()
    }
    every = dict.fromkeys(name for found in figures.values() for name in found)
    if not every:
        return []
    rows = tuple(
        (
            name.replace("_", " "),
            *(_inside_and_outside(found.get(name)) for found in figures.values()),
        )
        for name in every
    )
    return [
        Heading("Extraction of the canaries"),
        Table(("mean in training, mean of the others", *reports), rows),
    ]


def _inside_and_outside(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    return f"{figure['value']:.3g}, {figure['held_out_value']:.3g}"
