"""synthesis.json and report.md: what the records are, and what they promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpjax_accounting import NON_PRIVATE_WARNING, write_text

from dpjax.synthesis.conditions import Condition
from dpjax.synthesis.drawing.draws import Chosen, Draw, Place
from dpjax.synthesis.finished_run import FinishedRun
from dpjax.synthesis.folder import SynthesisFolder

SCHEMA_VERSION = 1
POST_PROCESSING = (
    "The records are post-processing of the tuned model. They were drawn from its weights, from "
    "prompts and options that whoever asked for them gave, and from fresh random numbers; no "
    "training record and no other data file of the run was read. So the guarantee of the model is "
    "that of the records too, however many are drawn and whatever is done with them (Dwork and "
    "Roth 2014, proposition 2.1). They cost no further ε, and belong into no ledger. The guarantee "
    "is copied from privacy.json of the run; `dpjax report verify` computes its ε again."
)
_NO_GUARANTEE = (
    "The records come from a model without privacy and may hold training records word by word. "
    "Keep them as secret as those."
)
_PUBLIC = (
    "Prompts, values and shares are public: they were given, and not taken from private records."
)
_LIMITS = (
    "A synthetic record may resemble a training record, or be equal to one, as a common text is. "
    "(ε, δ) bounds how much more probable any one training record can make this.",
    "Temperature, top_p and other options of sampling that were chosen by comparing synthetic "
    "with private records. private_comparison.json and .md are computed from private records, "
    "without noise. Do not publish them.",
)


def describe(
    run: FinishedRun,
    folder: SynthesisFolder,
    conditions: Sequence[Condition],
    chosen: Chosen,
    draws: Mapping[Place, Draw],
    max_new_tokens: int,
) -> dict[str, Any]:
    """Returns synthesis.json, without what must be the same on resumption.

    What is said of the guarantee is copied from the run's privacy.json.
    """
    privacy = run.privacy
    copied = ("private", "guarantee", "mechanism", "dataset_total", "warnings")
    assumptions = {"run": privacy["assumptions"], "records": [_PUBLIC]}
    not_covered = {"run": privacy["not_covered"], "records": list(_LIMITS)}
    return {
        "schema_version": SCHEMA_VERSION,
        **{name: privacy[name] for name in copied},
        "statement": POST_PROCESSING if run.is_private else _NO_GUARANTEE,
        "assumptions": assumptions if run.is_private else {},
        "not_covered": not_covered if run.is_private else {},
        "run": privacy["run"] | {"num_steps": privacy["steps_completed"]},
        "records": {
            "file": folder.records.name,
            "asked_for": sum(condition.num for condition in conditions),
            "written": len(chosen.records),
            "drawn": len(draws),
            "dropped_empty": chosen.num_empty,
            "dropped_repeated": chosen.num_repeated,
            "max_new_tokens": max_new_tokens,
            "cut_at_max_new_tokens": sum(not draws[place].has_ended for place in chosen.records),
            "tokens": sum(draws[place].num_tokens for place in chosen.records),
        },
        "conditions": [
            {
                "prompt": condition.prompt,
                "value": condition.value,
                "asked_for": condition.num,
                "written": sum(place.condition == which for place in chosen.records),
            }
            for which, condition in enumerate(conditions)
        ],
    }


def write_report(folder: SynthesisFolder, summary: Mapping[str, Any]) -> None:
    """Writes report.md, which says the same as synthesis.json to people."""
    write_text(folder.report, report_markdown(summary))


def report_markdown(summary: Mapping[str, Any]) -> str:
    """Returns report.md.

    Args:
        summary: contents of synthesis.json.
    """
    records, options = summary["records"], summary["options"]
    is_private = summary["private"]
    title = "Private synthetic records" if is_private else "Synthetic records WITHOUT privacy"
    rows = [
        ("Privacy", _promise(summary)),
        ("Records", f"{records['written']} of {records['asked_for']} asked for"),
        ("Texts drawn", str(records["drawn"])),
        ("Dropped", f"{records['dropped_empty']} empty, {records['dropped_repeated']} repeated"),
        ("Cut", f"{records['cut_at_max_new_tokens']} after {records['max_new_tokens']} tokens"),
        ("Temperature, top-p", f"{options['temperature']:g}, {options['top_p']:g}"),
        ("Seed of the draws", str(options["seed"])),
        ("Run", f"{summary['run']['id']}, of {_line(summary['run']['base_model'])}"),
        *_total(summary),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    sections = [f"# {title}", f"| | |\n|---|---|\n{table}"]
    sections += [f"> **Warning on the run.** {_line(text)}" for text in summary["warnings"]]
    sections += [f"> **Warning.** {text}" for text in _shortage(records)]
    sections.append(summary["statement"])
    if len(summary["conditions"]) > 1:
        sections += ["## Written for", _conditions(summary["conditions"])]
    lists = (("Assumptions", "assumptions"), ("Not covered", "not_covered"))
    for heading, key in lists:
        for whose, lines in summary[key].items():
            title = f"## {heading} ({whose})"
            sections += [title, "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(sections) + "\n"


def _promise(summary: Mapping[str, Any]) -> str:
    guarantee = summary["guarantee"]
    if guarantee is None:
        return NON_PRIVATE_WARNING
    relation = guarantee["neighboring"].replace("_", " ")
    return (
        f"({guarantee['epsilon']:.4g}, {guarantee['delta']:.3g})-differential privacy per "
        f"{guarantee['unit']}, {relation}: that of the run, {summary['run']['num_steps']} steps of "
        f"{summary['mechanism']['mechanism']}"
    )


def _total(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    total = summary["dataset_total"]
    if total is None:
        return []
    return [("All runs on the same records", f"ε = {total['epsilon']:.4g} at the end of the run")]


def _shortage(records: Mapping[str, Any]) -> list[str]:
    short = records["asked_for"] - records["written"]
    if not short:
        return []
    return [
        f"{short} records are missing: all draws that max_tries allows were made, and the others "
        "were empty or repeated. Raise temperature, top_p or max_tries."
    ]


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| given | records | asked for |", "|---|---|---|"]
    for each in conditions:
        given = each["prompt"] if each["value"] is None else each["value"]
        lines.append(f"| {_line(given)} | {each['written']} | {each['asked_for']} |")
    return "\n".join(lines)


def _line(text: str) -> str:
    """Any text inside a cell of a Markdown table, without HTML."""
    return " ".join(text.replace("<", "&lt;").replace("|", "\\|").split())
