"""`dpjax report` and `dpjax ledger`: the commands of dpjax_accounting under one roof."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from dpjax_accounting import cli
from rich.console import Console
from tyro.conf import Positional

from dpjax.cli.command import CommandOnFiles


@dataclasses.dataclass(frozen=True)
class Verify:
    """Compute every number of a privacy report again; status 1 if its claim does not hold."""

    report: Positional[Path]
    """privacy.json of a run."""
    ledger: Path | None = None
    """The run must be in this ledger as reported."""

    def run(self, console: Console) -> int:
        """Runs the command and returns its exit status."""
        return cli.verify(self.report, self.ledger)


@dataclasses.dataclass(frozen=True)
class Show:
    """Say a privacy report in words, as Markdown or as an HTML page with pictures."""

    report: Positional[Path]
    """privacy.json of a run."""
    html: Path | None = None
    """Write a page to this file."""

    def run(self, console: Console) -> int:
        """Runs the command and returns its exit status."""
        return cli.show(self.report, self.html)


@dataclasses.dataclass(frozen=True)
class ShowLedger:
    """Print every run on record."""

    ledger: Positional[Path]
    """Ledger of a data set."""

    def run(self, console: Console) -> int:
        """Runs the command and returns its exit status."""
        return cli.show_ledger(self.ledger)


@dataclasses.dataclass(frozen=True)
class TotalOfLedger:
    """Print the ε of all runs on record together."""

    ledger: Positional[Path]
    """Ledger of a data set."""
    delta: float
    """δ of the total."""

    def run(self, console: Console) -> int:
        """Runs the command and returns its exit status."""
        return cli.total_of_ledger(self.ledger, self.delta)


@dataclasses.dataclass(frozen=True)
class MergeLedgers:
    """Write one ledger made of several of the same data."""

    ledgers: Positional[tuple[Path, ...]]
    """Ledgers of the same data set; they stay as they are."""
    output: Path
    """New ledger."""

    def run(self, console: Console) -> int:
        """Runs the command and returns its exit status."""
        return cli.merge(self.ledgers, self.output)


@dataclasses.dataclass(frozen=True)
class ReportCommand(CommandOnFiles):
    """Verify a privacy report, or say it in words."""

    action: (
        Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Show, tyro.conf.subcommand("show")]
    )


@dataclasses.dataclass(frozen=True)
class LedgerCommand(CommandOnFiles):
    """What was spent on a data set over its lifetime."""

    action: (
        Annotated[ShowLedger, tyro.conf.subcommand("show")]
        | Annotated[TotalOfLedger, tyro.conf.subcommand("total")]
        | Annotated[MergeLedgers, tyro.conf.subcommand("merge")]
    )
