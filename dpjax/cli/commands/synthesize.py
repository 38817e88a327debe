"""`dpjax synthesize`: synthetic records of a finished run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from dpjax.cli.command import refusing
from dpjax.synthesis import SynthesisConfig

if TYPE_CHECKING:
    from dpjax.synthesis import SynthesisResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthesizeCommand(SynthesisConfig):
    r"""Write synthetic records with a decoder that finetune has tuned; no private record is read.

    In prompts, \n is a line break.
    """

    run: Positional[str]
    """Folder of a finished run with task=causal_lm."""

    def prepare(self) -> ReadySynthesis:
        """Checks everything but what the records are compared with; no model is loaded."""
        from dpjax.synthesis import execute, set_up

        prompt = None if self.prompt is None else self.prompt.replace("\\n", "\n")
        config = dataclasses.replace(self, prompt=prompt)
        return ReadySynthesis(functools.partial(execute, set_up(config)))


@dataclasses.dataclass(frozen=True)
class ReadySynthesis:
    """A synthesis that has passed its checks."""

    execute: Callable[[Console], SynthesisResult]

    def run(self, console: Console) -> int:
        """Writes the records, prints what became of them, and returns 0.

        Raises:
            OSError, Refusal: what the records are compared with cannot be read.
        """
        with refusing():
            result = self.execute(console)
        console.print(_table(result))
        return 0


def _table(result: SynthesisResult) -> Table:
    counts = result.summary["records"]
    table = Table("result", "value")
    privacy = "NO PRIVACY" if result.epsilon is None else f"ε = {result.epsilon:.4g}"
    table.add_row(
        "privacy", privacy if result.delta is None else f"{privacy}, δ = {result.delta:g}"
    )
    table.add_row("records", f"{counts['written']} of {counts['asked_for']} asked for")
    table.add_row(
        "dropped", f"{counts['dropped_empty']} empty, {counts['dropped_repeated']} repeated"
    )
    table.add_row("file", str(result.records))
    table.add_row("report", str(result.output_dir / "report.md"))
    return table
