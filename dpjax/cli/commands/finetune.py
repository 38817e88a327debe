"""`dpjax finetune`: one run from its options to its reports."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
from rich.console import Console
from rich.table import Table

from dpjax.finetuning import FinetuneConfig, FinetuneResult, RunDirectory, RunState
from dpjax.training import is_lead


@dataclasses.dataclass(frozen=True)
class FinetuneCommand:
    """A fine-tuning run with these options."""

    config: FinetuneConfig

    def prepare(self) -> ReadyRun:
        """Sets the run up, which checks everything but the training itself."""
        from dpjax.finetuning import execute, set_up

        return ReadyRun(functools.partial(execute, set_up(self.config)))

    def what_is_left(self) -> str:
        """Returns a sentence on what is stored of a run that failed; empty if nobody can tell."""
        return what_is_left(self.config.output_dir)


@dataclasses.dataclass(frozen=True)
class ReadyRun:
    """A run that is set up."""

    execute: Callable[[Console], FinetuneResult]

    def run(self, console: Console) -> int:
        """Trains, evaluates and reports; prints the result, in one process, and returns 0."""
        result = self.execute(console)
        if is_lead():
            console.print(_table(result))
        return 0


def what_is_left(output_dir: str) -> str:
    """Returns a sentence on what is stored of a run that failed; empty if nobody can tell."""
    if jax.distributed.is_initialized() and not is_lead():
        return ""
    try:
        state = RunDirectory(output_dir).state()
    except OSError:
        return ""
    if state in (RunState.UNFINISHED, RunState.MEASURED):
        return " What is saved of the run stays: the same command with --resume goes on from there."
    if state is RunState.FAILED:
        return (
            " No state of the run had been saved; once the reason is gone, --overwrite starts"
            " it afresh."
        )
    return " Nothing of the run had been started."


def _table(result: FinetuneResult) -> Table:
    table = Table("result", "value")
    if result.quality is not None:
        table.add_row(*result.quality)
    for row in result.quality_details:
        table.add_row(*row)
    privacy = "NO PRIVACY" if result.epsilon is None else f"ε = {result.epsilon:.4g}"
    table.add_row(
        "privacy", privacy if result.delta is None else f"{privacy}, δ = {result.delta:g}"
    )
    total = result.privacy["dataset_total"]
    if total is not None:
        table.add_row("all runs in the ledger", f"ε = {total['epsilon']:.4g}")
    if result.num_left_out:
        table.add_row("training records left out by coins", str(result.num_left_out))
    if result.attack is not None:
        low, high = result.attack.auc_interval
        table.add_row("attack AUC (95 %)", f"{result.attack.auc:.3f} ({low:.3f} to {high:.3f})")
    table.add_row("tuned model", str(result.output_dir / "model"))
    table.add_row("report", str(result.output_dir / "report.md"))
    return table
