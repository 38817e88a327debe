"""The command `dpjax_accounting`: verify and show privacy reports, read and merge ledgers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dpjax_accounting.checks import checked_delta
from dpjax_accounting.ledger.ledger import Ledger
from dpjax_accounting.ledger.merge import merge_ledgers
from dpjax_accounting.mechanisms.mechanism import mechanism_from_dict
from dpjax_accounting.mechanisms.stepwise import stopped_after
from dpjax_accounting.readings.second_opinion import in_words, second_opinion
from dpjax_accounting.report.caveats import remarks
from dpjax_accounting.report.page import report_page
from dpjax_accounting.report.render import render_markdown
from dpjax_accounting.report.schema import report_schema
from dpjax_accounting.report.schema_check import violations
from dpjax_accounting.report.verify import read_report, verify_report
from dpjax_accounting.safe_files import write_text

_FAILED = 1
_USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    0 done, or the claim holds; 1 the claim does not hold; 2 something given does not exist or fit.
    """
    options = vars(_parser().parse_args(arguments))
    action: Callable[..., int] = options.pop("action")
    try:
        return action(**options)
    except (OSError, ValueError, TypeError) as error:
        print(f"dpjax_accounting: error: {error}", file=sys.stderr)
        return _USAGE_ERROR


def verify(report: Path, ledger: Path | None = None) -> int:
    """Prints whether the claim of a report holds; returns 0 if it does, 1 if not.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if the ledger is none, or was tampered with.
    """
    recorded = None if ledger is None else Ledger(ledger)
    Path(report).stat()
    try:
        value = read_report(report)
        problems = verify_report(value, recorded)
    except ValueError as error:
        problems = [str(error)]
    if problems:
        print(f"FAILED: {report} does not hold.")
        print("\n".join(f"- {line}" for line in problems))
        return _FAILED
    guarantee, steps = value["guarantee"], value["steps_completed"]
    for line in remarks(value):
        print(f"Note: {line}")
    print(
        f"OK: epsilon={guarantee['epsilon']:.6g} at delta={guarantee['delta']:g} per"
        f" {guarantee['unit']} ({guarantee['neighboring']}) follows from the mechanism"
        + ("." if steps is None else f" after {steps} steps.")
    )
    print(in_words(guarantee["epsilon"], _second_opinion(value)))
    return 0


def _second_opinion(report: Any) -> float | None:
    mechanism = mechanism_from_dict(report["mechanism"])
    if report["steps_completed"] is not None:
        mechanism = stopped_after(mechanism, report["steps_completed"])
    return second_opinion(mechanism, report["guarantee"]["delta"])


def show(report: Path, html: Path | None = None) -> int:
    """Prints a report as Markdown, or writes it as an HTML page with pictures; returns 0.

    Raises:
        OSError: if the report cannot be read, or the page not be written.
        ValueError: if the report does not fit the schema or its mechanism is not known.
    """
    value = read_report(report)
    problems = violations(value, report_schema())
    if problems:
        raise ValueError(f"{report} is no privacy report: {' '.join(problems)}")
    if html is None:
        print(render_markdown(value), end="")
    else:
        write_text(Path(html), report_page(value))
    return 0


def show_ledger(ledger: Path) -> int:
    """Prints every run in a ledger; returns 0.

    Raises:
        OSError: if there is no such ledger.
        ValueError: if it is none, or was tampered with.
    """
    opened = Ledger(ledger)
    data = opened.dataset
    print(f"{data.num_units} {data.unit}s, hash {data.sha256}")
    for entry in opened.entries():
        steps = "in full, not settled" if entry.num_steps is None else f"{entry.num_steps} steps"
        print(f"{entry.time}  {entry.run}  {steps}  {entry.charged}  {entry.note}".rstrip())
    head = opened.head
    print(f"head: {head.num_lines} lines, {head.sha256}")
    if opened.torn:
        print("A crash left half a line at the end. Nothing was released for it.")
    return 0


def total_of_ledger(ledger: Path, delta: float) -> int:
    """Prints the ε that a data set has spent; returns 0.

    Raises:
        OSError: if there is no such ledger.
        ValueError: if it is none, was tampered with, or `delta` is out of range.
    """
    epsilon = Ledger(ledger).epsilon(checked_delta(delta))
    print(f"epsilon={epsilon:.6g} at delta={delta:g}")
    return 0


def merge(ledgers: Sequence[Path], output: Path) -> int:
    """Writes one ledger made of several; returns 0.

    Raises:
        OSError: if a ledger does not exist, or the output does.
        ValueError: as for :func:`dpjax_accounting.merge_ledgers`.
    """
    merged = merge_ledgers(ledgers, output)
    print(f"{output}: runs on record: {len(merged.entries())}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpjax_accounting",
        description="Verify and show privacy reports; read and merge ledgers.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = _add(commands, "verify", verify, "compute every number of a report again")
    command.add_argument("report", type=Path, metavar="privacy.json")
    command.add_argument("--ledger", type=Path, help="the run must be in it as reported")
    command = _add(commands, "show", show, "a report in words, as Markdown")
    command.add_argument("report", type=Path, metavar="privacy.json")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page instead")
    ledger = commands.add_parser("ledger", help="what was spent on a data set")
    commands = ledger.add_subparsers(required=True, metavar="COMMAND")
    command = _add(commands, "show", show_ledger, "every run on record")
    command.add_argument("ledger", type=Path)
    command = _add(commands, "total", total_of_ledger, "the epsilon of all runs together")
    command.add_argument("ledger", type=Path)
    command.add_argument("--delta", type=float, required=True)
    command = _add(commands, "merge", merge, "one ledger of several of the same data")
    command.add_argument("ledgers", type=Path, nargs="+", metavar="ledger")
    command.add_argument("--output", type=Path, required=True)
    return parser


def _add(
    commands: Any, name: str, action: Callable[..., int], words: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=f"{words}."
    )
    command.set_defaults(action=action)
    return command
