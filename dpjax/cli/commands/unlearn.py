"""`dpjax unlearn`: an adapter of a finished run forgets training records."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from dpjax.cli.command import refusing
from dpjax.unlearning import UnlearnConfig

if TYPE_CHECKING:
    from dpjax.unlearning import UnlearningResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnlearnCommand(UnlearnConfig):
    """Make a tuned decoder forget some of its training records, and measure what is left."""

    run: Positional[str]
    """Folder of a finished run with task=causal_lm and tuning=lora."""

    def prepare(self) -> ReadyUnlearning:
        """Checks everything that was asked for; no model is loaded."""
        from dpjax.unlearning import execute, set_up

        return ReadyUnlearning(functools.partial(execute, set_up(self)))


@dataclasses.dataclass(frozen=True)
class ReadyUnlearning:
    """An unlearning that has passed its checks."""

    execute: Callable[[Console], UnlearningResult]

    def run(self, console: Console) -> int:
        """Unlearns, prints what became of it, and returns 0.

        Raises:
            Refusal: the options of the run do not fit fewer records, or a model is damaged.
        """
        with refusing():
            result = self.execute(console)
        console.print(_table(result))
        return 0


def _table(result: UnlearningResult) -> Table:
    models = result.report["models"]
    table = Table("result", "value")
    flags = {"OVER-UNLEARNED": result.over_unlearned, "UNDER-UNLEARNED": result.under_unlearned}
    raised = [name for name, is_raised in flags.items() if is_raised]
    table.add_row("verdict", " and ".join(raised) or "no difference shown")
    for part, title in (("forget", "loss on the forget set"), ("retain", "loss on retained")):
        losses = [
            f"{name} {numbers[part]['loss']:.3f}"
            for name, numbers in models.items()
            if numbers is not None
        ]
        table.add_row(title, ", ".join(losses))
    certificate = result.report["certificate"]
    if certificate is not None:
        promise = f"ε = {certificate['epsilon']:.4g} at δ = {certificate['delta']:.3g}, forget set"
        table.add_row("certified", f"{promise}, adapter alone: the report has the conditions")
    table.add_row("adapter", str(result.adapter))
    table.add_row("report", str(result.output_dir / "report.md"))
    return table
