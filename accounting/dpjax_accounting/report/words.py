"""A privacy report in words that need no knowledge of the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpjax_accounting.report.caveats import remarks
from dpjax_accounting.report.document import Block, Bullets, Heading, Paragraph, Table

_RELATIONS = {
    "add_or_remove_one": "one {unit} more or less",
    "replace_one": "one {unit} exchanged for another",
    "zero_out": "one {unit} left out of the computation, the number of {unit}s being known",
}


def in_words(report: Mapping[str, Any]) -> list[Block]:
    """Returns a report that fits the schema as a document, most important things first."""
    blocks: list[Block] = [Heading("Privacy report", level=1)]
    blocks += [Paragraph(text, warning=True) for text in remarks(report)]
    if not report["private"]:
        return [*blocks, *_run(report)]
    return [
        *blocks,
        *_promise(report),
        *_numbers(report),
        *_lifetime(report),
        *_training(report),
        *_limits(report),
        *_run(report),
        *_check(report),
    ]


def _promise(report: Mapping[str, Any]) -> list[Block]:
    guarantee = report["guarantee"]
    unit, epsilon = guarantee["unit"], guarantee["epsilon"]
    relation = _RELATIONS.get(guarantee["neighboring"], guarantee["neighboring"].replace("_", " "))
    recognised = "; ".join(
        f"a test that wrongly accuses {_percent(test['false_positive_rate'])} of the {unit}s that"
        " were not used recognises at most"
        f" {_percent(test['largest_true_positive_rate'], up=True)} of those that were"
        for test in guarantee["tests"]
    )
    right = (1 + guarantee["largest_advantage"]) / 2
    return [
        Heading("What is promised"),
        Paragraph(
            f"The training data contains {unit}s. Take any one {unit}. Somebody sees everything"
            f" that was released, knows every other {unit} and has any computing power. This person"
            f" still cannot tell well whether the {unit} was used. The limit below was proved for"
            " the method, not measured on this model."
        ),
        Paragraph(
            f"The limit is ε = {_rounded_up(epsilon)} at δ = {guarantee['delta']:.3g}, for data"
            f" sets that differ by {relation.format(unit=unit)}. Smaller is safer. A result that is"
            f" likely with the {unit} is at most {_rounded_up(math.exp(epsilon))} times less likely"
            f" without it, and the other way round. This leaves out a probability of"
            f" {guarantee['delta']:.3g}, for which nothing is promised."
            if epsilon < 50
            else f"The limit is ε = {_rounded_up(epsilon)} at δ = {guarantee['delta']:.3g}. It is"
            " so large that it promises nothing of use."
        ),
        Paragraph(
            f"Suppose both are equally likely, and somebody guesses whether a {unit} was used. The"
            f" guess is right in at most {_percent(right, up=True)} of the cases; without the model"
            f" it would be 50 %. Of all tests, {recognised}."
        ),
    ]


def _numbers(report: Mapping[str, Any]) -> list[Block]:
    guarantee = report["guarantee"]
    rows = [
        ("ε of what was done", f"{guarantee['epsilon']:.6g}"),
        ("δ", f"{guarantee['delta']:.6g}"),
        ("Privacy unit", guarantee["unit"]),
        ("Neighbouring relation", guarantee["neighboring"].replace("_", " ")),
    ]
    if guarantee["num_units"] is not None:
        share = guarantee["delta_times_num_units"]
        rows.append((f"Number of {guarantee['unit']}s n (public)", f"{guarantee['num_units']:,}"))
        verdict = "below 1/n, as it should be" if share < 1 else "NOT below 1/n, but should be"
        rows.append(("δ compared with 1/n", f"{share:.3g} times 1/n: {verdict}"))
    for pair in guarantee["other_deltas"]:
        rows.append((f"ε at δ = {pair['delta']:.3g}", f"{pair['epsilon']:.6g}"))
    if report["status"] == "unfinished":
        rows.append(("ε of all steps planned", f"{guarantee['epsilon_planned']:.6g}"))
    if guarantee["epsilon_unamplified"] is not None:
        what = f"ε if it is known which {guarantee['unit']}s were drawn in which step"
        rows.append((what, f"{guarantee['epsilon_unamplified']:.6g}"))
    if guarantee["epsilon_renyi"] is not None:
        what = "ε by a second accountant (Rényi differential privacy, looser)"
        rows.append((what, f"{guarantee['epsilon_renyi']:.6g}"))
    accountant = report["accountant"]
    by = f"{accountant['package']} {accountant['version']}: {accountant['method']}"
    return [
        Heading("The numbers"),
        Table(("Quantity", "Value"), (*rows, ("Computed by", by))),
    ]


def _lifetime(report: Mapping[str, Any]) -> list[Block]:
    total = report["dataset_total"]
    if total is None:
        text = (
            "No ledger was kept. Only this run is counted. If the same data was or will be used"
            " again, all uses together spend a larger ε, which this report does not know."
        )
    else:
        runs = "1 run" if total["num_runs"] == 1 else f"{total['num_runs']} runs"
        text = (
            f"The ledger of the data set has {runs}, this one included. Together they spent ε ="
            f" {_rounded_up(total['epsilon'])} at δ = {total['delta']:.3g}. This bounds what all"
            " of their results reveal to somebody who sees them. Runs that are not in the ledger"
            f" are not counted. The ledger then had {total['ledger_head']['num_lines']} lines, the"
            f" last with the hash {total['ledger_head']['sha256']}."
        )
    return [Heading("The same data over its lifetime"), Paragraph(text)]


def _training(report: Mapping[str, Any]) -> list[Block]:
    mechanism, done = report["mechanism"], report["implementation"]
    rows = [("Mechanism", str(mechanism["mechanism"]))]
    rows += [
        (_label(name), _shown(value)) for name, value in mechanism.items() if name != "mechanism"
    ]
    if report["steps_planned"] is not None:
        of = f"{report['steps_completed']:,} of {report['steps_planned']:,}"
        rows.append(("Steps executed, of those planned", of))
    rows += [(_label(name), _shown(value)) for name, value in done.items()]
    rows += [(_label(name), _shown(value)) for name, value in report["randomness"].items()]
    return [Heading("What was done"), Table(("Parameter", "Value"), tuple(rows))]


def _limits(report: Mapping[str, Any]) -> list[Block]:
    trust = report["trust"]
    uses = tuple((use["use"], use["status"], use["explanation"]) for use in report["data_uses"])
    return [
        Heading("Who must be trusted"),
        Paragraph(
            "One party holds the data and adds the noise (the central model). The promise does not"
            " limit what these learn, because they see the data before the noise is added:"
        ),
        Bullets(tuple(trust["trusted_with_records"])),
        Heading("What may be published"),
        Bullets(tuple(trust["released"])),
        Heading("What must stay secret"),
        Bullets(tuple(trust["kept_secret"])),
        Heading("What must be true for the promise to hold"),
        Bullets(tuple(report["assumptions"])),
        Heading("What the promise does not cover"),
        Bullets(tuple(report["not_covered"])),
        Heading("Other uses of the private data"),
        Table(("Use", "Status", "Explanation"), uses),
    ]


def _run(report: Mapping[str, Any]) -> list[Block]:
    rows = [(_label(name), _shown(value)) for name, value in report["run"].items()]
    rows += [(name, value) for name, value in report["versions"].items()]
    rows += [
        (_label(name), "unknown" if value is None else _shown(value))
        for name, value in report["environment"].items()
    ]
    return [Heading("The run"), Table(("", "Value"), tuple(rows))]


def _check(report: Mapping[str, Any]) -> list[Block]:
    return [
        Heading("How to check this report"),
        Paragraph(
            "The command `dpjax_accounting verify privacy.json` computes every number again from"
            " the parameters. It cannot see whether the run did what this report states."
        ),
    ]


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return str(value)


def _rounded_up(value: float) -> str:
    """Three digits, never less than the value."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    # The allowance keeps what has three digits already as it is.
    return f"{math.ceil(value / unit - 1e-9) * unit:.3g}"


def _percent(share: float, up: bool = False) -> str:
    return f"{_rounded_up(100 * share) if up else f'{100 * share:.3g}'} %"
