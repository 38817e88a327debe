"""`dpjax audit poison`: what poisoned training records achieve, with privacy and without."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from dpjax.cli.command import refusing
from dpjax.finetuning import PoisonConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditPoison(PoisonConfig):
    """Plant poisoned records, train with privacy and without, and say what the poison achieves.

    It takes the options of finetune. Many models are trained, and deleted once they are measured.
    """

    def run(self, console: Console) -> int:
        """Trains, measures, prints the report, and returns 0.

        Raises:
            OSError, Refusal: something given does not exist or does not fit.
            RunInterrupted, RunStopped: as for `dpjax.audit_poisoning`.
        """
        from dpjax.audit import poisoning_markdown
        from dpjax.finetuning import execute_poisoning

        with refusing():
            result = execute_poisoning(self, console)
        console.print(
            poisoning_markdown(result.report), highlight=False, markup=False, soft_wrap=True
        )
        console.print(f"Report: {result.output_dir}", highlight=False, soft_wrap=True)
        return 0
