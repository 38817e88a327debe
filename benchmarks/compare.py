"""Ratios of two runs of one benchmark side by side, with those that differ marked.

    python -m benchmarks compare before.json after.json --check

The files are of the same benchmark on the same kind of device. Ratios are compared, not seconds:
these depend on what else the machine does.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

_LIMIT = 0.1


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    before: tyro.conf.Positional[Path]
    after: tyro.conf.Positional[Path]
    check: bool = False
    """End with status 1 if a ratio differs by more than 10 %."""


class Difference(NamedTuple):
    """One ratio of both runs.

    Attributes:
        row: its name.
        ratio: its name.
        before: in the first run.
        after: in the second.
    """

    row: str
    ratio: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """After by before, less 1."""
        return self.after / self.before - 1

    @property
    def is_large(self) -> bool:
        """Whether it is more than 10 %."""
        return abs(self.change) > _LIMIT


def read_results(path: Path) -> dict[str, Any]:
    """Reads the JSON file of a benchmark.

    Raises:
        ValueError: it is none, or of a benchmark that has no ratios.
        OSError: it cannot be read.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}); give one of a benchmark") from error
    if not isinstance(results, dict) or not {"benchmark", "device", "rows"} <= results.keys():
        raise ValueError(f"{path} is not the file of a benchmark, or of an old one: run it again")
    if not results["ratios"]:
        raise ValueError(f"{path} is of {results['benchmark']}, which has no ratios to compare")
    return results


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    """Returns the ratios that both runs have.

    Raises:
        ValueError: the runs are of different benchmarks or devices, or have no ratio in common.
    """
    for name in ("benchmark", "device", "num_devices"):
        if before[name] != after[name]:
            raise ValueError(
                f"both files must have the same {name}, got {before[name]} and {after[name]}; "
                "compare runs of one benchmark on one kind of machine"
            )
    rows = {_name(row, after): row for row in after["rows"]}
    common = [
        Difference(name, ratio, row[ratio], rows[name][ratio])
        for name, row in ((_name(row, before), row) for row in before["rows"])
        for ratio in before["ratios"]
        if name in rows and row.get(ratio) is not None and rows[name].get(ratio) is not None
    ]
    if not common:
        raise ValueError("the files have no row in common; run both with the same options")
    return common


def main(options: Options) -> int:
    """Prints the table; returns 1 if a ratio differs and `check` is given, 2 if none can be."""
    try:
        before, after = read_results(options.before), read_results(options.after)
        found = differences(before, after)
    except (ValueError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    table = Table(
        "row",
        "ratio",
        f"before, {before['date']}",
        f"after, {after['date']}",
        "change",
        "",
        title=f"{before['benchmark']}, {before['device']}",
    )
    for one in found:
        numbers = (f"{one.before:.3f}", f"{one.after:.3f}", f"{one.change:+.1%}")
        table.add_row(one.row, one.ratio, *numbers, "differs" if one.is_large else "")
    console = Console(width=130)
    console.print(table)
    num_rows = [len(results["rows"]) for results in (before, after)]
    num_large = sum(one.is_large for one in found)
    console.print(f"{num_large} of {len(found)} ratios differ by more than {_LIMIT:.0%}.")
    if before["options"] != after["options"] or num_rows[0] != num_rows[1]:
        console.print("The options of the runs are not the same; rows in both were compared.")
    return 1 if options.check and num_large else 0


def _name(row: dict[str, Any], results: dict[str, Any]) -> str:
    return ", ".join(str(row[key]) for key in results["keys"] if key in row)
