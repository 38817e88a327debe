"""An audit in words and pictures: Markdown, or one HTML page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from dpjax_accounting import (
    Block,
    Bullets,
    Heading,
    Mechanism,
    Paragraph,
    Table,
    html_document,
    markdown_document,
    tpr_ceiling,
    trade_off,
)
from numpy.typing import NDArray

from dpjax.audit.reports.audit_report import attack_of, inputs_of
from dpjax.audit.reports.plots import ROC_COLOUR, new_figure

_LIMITS = (
    "The certified bound holds for any training procedure, if each canary was included by a fair"
    " coin that nothing but training saw. It says how much leaks at least, never how much at most.",
    "The other numbers describe these canaries and this attack. A better attack may find more.",
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
        "How many included canaries the attack finds (TPR) at each rate of false alarms (FPR)": (
            _roc_picture(report)
        ),
        "Scores of the canaries that training saw, and of those that it did not": (
            _histogram(report)
        ),
    }
    return html_document(_in_words(report), title="Privacy audit", pictures=pictures)


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
            f"{len(canaries)} canaries, {num_included} of them in training, scored by"
            f" {report['score']}. Confidence {100 * report['confidence']:g} %."
        ),
        *(Paragraph(note, warning=True) for note in report["notes"]),
        Heading("Bounds on ε"),
        _bounds(report),
        *_power(report),
        Heading("Attacks on the canaries"),
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
            _number(bound["epsilon"]),
            f"{100 * bound['confidence']:g} %",
            bound["validity"],
            bound["assumption"],
        )
        for bound in (report["certified"], report["model_based"])
    ]
    if report["claimed_epsilon"] is not None:
        claimed = _number(report["claimed_epsilon"])
        rows.insert(0, ("claimed by the accountant", claimed, "", "upper bound", ""))
    header = (f"at δ = {report['delta']:g}", "ε", "confidence", "validity", "rests on")
    return Table(header, tuple(rows))


def _power(report: Mapping[str, Any]) -> list[Block]:
    power = report["power"]
    if power is None:
        return []
    rows = (
        ("certified ε of a correct run", _number(power["expected_epsilon"])),
        (
            f"certified ε with half the noise (ε = {_number(power['half_noise_epsilon'])})",
            _number(power["expected_epsilon_at_half_noise"]),
        ),
        ("half the noise is called a violation", f"{100 * power['detection_rate']:.0f} %"),
        ("certified ε of an attack without errors", _number(power["largest_epsilon"])),
    )
    return [
        Heading("What this audit could have found"),
        Paragraph("With as many canaries, an ideal attack would on average give:"),
        Table(("", ""), rows),
    ]


def _attacks(report: Mapping[str, Any]) -> Table:
    attacks = {report["score"]: report["attack"], **report["other_scores"]}
    rows = []
    for name, attack in attacks.items():
        low, high = attack["auc_interval"]
        tpr_low, tpr_high = attack["tpr_interval"]
        rows.append(
            (
                f"{name} (verdict)" if name == report["score"] else name,
                f"{attack['auc']:.3f} ({low:.3f} to {high:.3f})",
                f"{100 * attack['tpr']:.1f} % ({100 * tpr_low:.1f} to {100 * tpr_high:.1f} %)",
                attack["label"],
            )
        )
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


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _roc_picture(report: Mapping[str, Any]) -> bytes:
    """Returns the ROC on logarithmic axes, and the most that the claim allows, as PNG."""
    attack = attack_of(report)
    lowest = 10.0 ** np.floor(np.log10(1 / attack.num_nonmembers))
    grid = np.geomspace(lowest, 1, 400)
    figure = new_figure(width=6.0, height=5.2)
    axes = figure.subplots()
    axes.plot(grid, grid, color="#595959", linestyle=":", label="guessing")
    ceiling, label = _ceiling(report, grid)
    if ceiling is not None:
        axes.plot(grid, ceiling, color="black", linestyle="--", linewidth=1.3)
        axes.fill_between(grid, ceiling, 1, color="#E4E4E4", linewidth=0, label=label)
    axes.step(
        np.maximum(attack.roc.fpr, lowest),
        attack.roc.tpr,
        where="post",
        color=ROC_COLOUR,
        linewidth=2,
        label=f"{report['score']}: AUC {attack.auc:.3f}",
    )
    low, high = attack.tpr_interval
    axes.errorbar(
        attack.fpr_level,
        attack.tpr,
        yerr=[[attack.tpr - low], [high - attack.tpr]],
        color=ROC_COLOUR,
        marker="o",
        capsize=4,
    )
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1.05), ylim=(lowest, 1.05))
    axes.set(xlabel="False positive rate", ylabel="True positive rate")
    axes.legend(loc="lower right", frameon=False)
    return _png(figure)


def _ceiling(
    report: Mapping[str, Any], fpr: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, str]:
    epsilon, delta = report["claimed_epsilon"], report["delta"]
    if epsilon is None:
        return None, ""
    mechanism: Mechanism | None = inputs_of(report)[1]["mechanism"]
    by_epsilon = tpr_ceiling(fpr, epsilon=epsilon, delta=delta)
    if mechanism is None:
        return by_epsilon, f"excluded by ε = {epsilon:.3g}, δ = {delta:g}"
    return np.minimum(by_epsilon, trade_off(mechanism, fpr)), "excluded by the claimed mechanism"


def _histogram(report: Mapping[str, Any]) -> bytes:
    """Returns the scores inside and outside training as PNG; infinite ones are left out."""
    canaries, _ = inputs_of(report)
    finite = np.isfinite(canaries.scores)
    figure = new_figure(width=6.0, height=3.6)
    axes = figure.subplots()
    if finite.any():
        edges = np.histogram_bin_edges(canaries.scores[finite], bins=40)
        for is_in, name, colour in ((True, "in training", "#D55E00"), (False, "not", "#0072B2")):
            chosen = canaries.scores[finite & (canaries.included == is_in)]
            axes.hist(chosen, bins=edges.tolist(), color=colour, alpha=0.55, label=name)
        axes.legend(frameon=False)
    axes.set(xlabel=f"Score ({report['score']})", ylabel="Canaries")
    return _png(figure)


def _png(figure: Any) -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
