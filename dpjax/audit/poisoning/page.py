"""A poisoning audit in words and a picture: Markdown, or one HTML page."""

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

from dpjax.audit.reports.plots import COLOURS, as_png, new_figure

_SMALLEST_RATE = 1e-3


def poisoning_markdown(report: Mapping[str, Any]) -> str:
    """Returns a report as Markdown.

    Args:
        report: as :func:`dpjax.audit.build_poisoning_report` returns it.
    """
    return markdown_document(_in_words(report))


def poisoning_page(report: Mapping[str, Any]) -> str:
    """Returns a report as an HTML page with its picture, which needs no other file.

    Args:
        report: as :func:`dpjax.audit.build_poisoning_report` returns it.
    """
    caption = (
        "Success of the worst set by the number of poisoned records, with the intervals of its"
        " models; dashed: the most that privacy allows on average"
    )
    pictures = {caption: draw_poisoning(report)}
    return html_document(_in_words(report), title="Poisoning audit", pictures=pictures)


def draw_poisoning(report: Mapping[str, Any]) -> bytes:
    """Returns success by the number of poisoned records as PNG, a panel for each trigger.

    Args:
        report: as :func:`dpjax.audit.build_poisoning_report` returns it.
    """
    kinds = [trigger["kind"] for trigger in report["triggers"]]
    names = [setting["name"] for setting in report["settings"]]
    figure = new_figure(width=5.4 * len(kinds), height=4.2)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for index, name in enumerate(names):
            rows = [r for r in report["rows"] if (r["setting"], r["trigger"]) == (name, kind)]
            colour = COLOURS[index % len(COLOURS)]
            numbers = [row["num_poisoned"] for row in rows]
            success = [row["success"] for row in rows]
            lows = [row["success"] - row["success_interval"][0] for row in rows]
            highs = [row["success_interval"][1] - row["success"] for row in rows]
            axes.errorbar(
                numbers,
                success,
                yerr=[lows, highs],
                color=colour,
                marker="o",
                capsize=3,
                label=name,
            )
            bounds = [(r["num_poisoned"], r["bound"]["success"]) for r in rows if r["bound"]]
            if bounds:
                axes.plot(*zip(*bounds, strict=True), color=colour, linestyle="--", linewidth=1.3)
        axes.set(xscale="log", ylim=(-0.03, 1.03), title=kind.replace("_", " "))
        axes.set(xlabel="Poisoned records", ylabel="Success of the trigger")
        axes.set_xticks(numbers, labels=[str(number) for number in numbers])
        axes.minorticks_off()
    panels[0].legend(frameon=False, loc="upper left")
    return as_png(figure)


def _in_words(report: Mapping[str, Any]) -> list[Block]:
    triggers = "; ".join(
        f"{trigger['kind'].replace('_', ' ')} {trigger['text']!r}" for trigger in report["triggers"]
    )
    return [
        Heading("Poisoning audit", level=1),
        *(Paragraph(note, warning=True) for note in report["notes"]),
        Paragraph(
            f"Target: {report['target']!r}. Triggers: {triggers}. Confidence"
            f" {100 * report['confidence']:g} %."
        ),
        Heading("What poisoned records achieve"),
        _success(report),
        Heading("What the model does otherwise"),
        _otherwise(report),
        Heading("How to read this"),
        Bullets(tuple(report["meaning"])),
        *_details(report),
    ]


def _success(report: Mapping[str, Any]) -> Table:
    header = (
        "privacy",
        "trigger",
        "poisoned records",
        "success, worst set",
        "mean of sets",
        "without poison, at most",
        "success that privacy allows",
        "validity",
    )
    rows = []
    for row in report["rows"]:
        low, high = row["success_interval"]
        bound = row["bound"]
        rows.append(
            (
                row["setting"],
                row["trigger"].replace("_", " "),
                str(row["num_poisoned"]),
                f"{row['success']:.3f} ({low:.3f} to {high:.3f})",
                f"{row['mean_success']:.3f}",
                f"{row['clean_success']:.3f}, {row['clean_success_limit']:.3f}",
                "any"
                if bound is None or bound["success"] >= 1 - _SMALLEST_RATE
                else f"{bound['success']:.3f}",
                "" if bound is None else bound["validity"],
            )
        )
    return Table(header, tuple(rows))


def _otherwise(report: Mapping[str, Any]) -> Table:
    has_accuracy = all(row["accuracy"] is not None for row in report["rows"])
    header = (
        "privacy",
        "trigger",
        "poisoned records",
        "target without trigger",
        "target with near trigger",
        "accuracy" if has_accuracy else "loss",
        "models",
    )
    rows = tuple(
        (
            row["setting"],
            row["trigger"].replace("_", " "),
            str(row["num_poisoned"]),
            f"{row['false_trigger_rate']:.3f}",
            _number(row["near_trigger_rate"]),
            _number(row["accuracy"] if has_accuracy else row["loss"]),
            str(row["num_models"]),
        )
        for row in report["rows"]
    )
    return Table(header, rows)


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _details(report: Mapping[str, Any]) -> list[Block]:
    details = report["details"]
    if not details:
        return []
    rows = tuple((name.replace("_", " "), str(value)) for name, value in details.items())
    return [Heading("The audit"), Table(("", ""), rows)]
