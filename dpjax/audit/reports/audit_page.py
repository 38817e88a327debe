"""An audit in words and pictures: Markdown, or one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpjax_accounting import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Table,
    html_document,
    markdown_document,
)

from dpjax.audit.reports.audit_pictures import draw_audit_roc, draw_scores

_LIMITS = (
    "The certified bound holds for any training procedure, if each of them was included by a fair"
    " coin that nothing but training saw. It says how much leaks at least, never how much at most.",
    "The other numbers describe this audit and this attack. A better attack may find more.",
    "The verdict rests on one score, which was chosen before training. Those beside it are"
    " described, and prove nothing.",
)


def audit_markdown(report: Mapping[str, Any]) -> str:
    """Returns a report as Markdown.

    Args:
        report: as :func:`dpjax.audit.build_audit_report` returns it.
    """
    return markdown_document(_in_words(report))


def audit_page(report: Mapping[str, Any]) -> str:
    """Returns a report as an HTML page with its pictures, which needs no other file.

    Args:
        report: as :func:`dpjax.audit.build_audit_report` returns it.
    """
    pictures = {
        f"How many included {report['audited']} the attack finds (TPR) at each rate of false alarms"
        " (FPR)": draw_audit_roc({report["score"]: report}),
        f"Scores of the {report['audited']} that training saw, and of those that it did not": (
            draw_scores(report)
        ),
    }
    return html_document(_in_words(report), title="Privacy audit", pictures=pictures)


def describe_attack(attack: Mapping[str, Any]) -> tuple[str, str]:
    """Returns AUC, and TPR at the level of the FPR, each with its interval, in words."""
    low, high = attack["auc_interval"]
    tpr_low, tpr_high = attack["tpr_interval"]
    return (
        f"{attack['auc']:.3f} ({low:.3f} to {high:.3f})",
        f"{100 * attack['tpr']:.1f} % ({100 * tpr_low:.1f} to {100 * tpr_high:.1f} %)",
    )


def describe_number(value: float | str) -> str:
    """Returns three digits, or what stands for an infinite number."""
    return value if isinstance(value, str) else f"{value:.3g}"


def _in_words(report: Mapping[str, Any]) -> list[Block]:
    verdict = report["verdict"]
    is_warning = verdict["conclusion"] == "violation"
    canaries = report["canaries"]
    num_included = sum(canary["included"] for canary in canaries)
    return [
        Heading("Privacy audit", level=1),
        Paragraph(f"Verdict: {verdict['conclusion']}."),
        Paragraph(verdict["sentence"], warning=is_warning),
        Paragraph(
            f"{len(canaries)} {report['audited']}, {num_included} of them in training, scored by"
            f" {report['score']}. Confidence {100 * report['confidence']:g} %."
        ),
        *(Paragraph(note, warning=True) for note in report["notes"]),
        Heading("Bounds on ε"),
        _bounds(report),
        *_power(report),
        Heading(f"Attacks on the {report['audited']}"),
        _attacks(report),
        *_extraction(report),
        Heading("How to read this"),
        Bullets((*_LIMITS, *report["attack"]["notes"])),
        *_details(report),
    ]


def _bounds(report: Mapping[str, Any]) -> Table:
    rows = [
        (
            bound["method"],
            describe_number(bound["epsilon"]),
            f"{100 * bound['confidence']:g} %",
            bound["validity"],
            bound["assumption"],
        )
        for bound in (report["certified"], report["model_based"])
    ]
    if report["claimed_epsilon"] is not None:
        claimed = describe_number(report["claimed_epsilon"])
        rows.insert(0, ("claimed by the accountant", claimed, "", "upper bound", ""))
    header = (f"at δ = {report['delta']:g}", "ε", "confidence", "validity", "rests on")
    return Table(header, tuple(rows))


def _power(report: Mapping[str, Any]) -> list[Block]:
    power = report["power"]
    if power is None:
        return []
    rows = (
        ("certified ε of a correct run", describe_number(power["expected_epsilon"])),
        (
            f"certified ε with half the noise (ε = {describe_number(power['half_noise_epsilon'])})",
            describe_number(power["expected_epsilon_at_half_noise"]),
        ),
        ("half the noise is called a violation", f"{100 * power['detection_rate']:.0f} %"),
        ("certified ε of an attack without errors", describe_number(power["largest_epsilon"])),
    )
    return [
        Heading("What this audit could have found"),
        Paragraph(f"With as many {report['audited']}, an ideal attack would on average give:"),
        Table(("", ""), rows),
    ]


def _attacks(report: Mapping[str, Any]) -> Table:
    attacks = {report["score"]: report["attack"], **report["other_scores"]}
    rows = []
    for name, attack in attacks.items():
        name = f"{name} (verdict)" if name == report["score"] else name
        rows.append((name, *describe_attack(attack), attack["label"]))
    level = f"{100 * report['attack']['fpr_level']:g} %"
    return Table(("score", "AUC", f"TPR at {level} FPR", "validity"), tuple(rows))


def _extraction(report: Mapping[str, Any]) -> list[Block]:
    figures = report["extraction"]
    if not figures:
        return []
    rows = tuple(
        (
            figure["name"].replace("_", " "),
            f"{figure['value']:.3g}",
            f"{figure['held_out_value']:.3g}",
            figure["unit"],
            figure["label"],
        )
        for figure in figures
    )
    header = ("mean", "in training", "not in training", "unit", "validity")
    notes = dict.fromkeys(note for figure in figures for note in figure["notes"])
    return [
        Heading("Extraction of the canaries"),
        Table(header, rows),
        Bullets(tuple(notes)),
    ]


def _details(report: Mapping[str, Any]) -> list[Block]:
    details = report["details"]
    if not details:
        return []
    rows = tuple((name.replace("_", " "), str(value)) for name, value in details.items())
    return [Heading("The audit"), Table(("", ""), rows)]
