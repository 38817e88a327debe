"""What one run writes into the ledger of its data set."""

from __future__ import annotations

from pathlib import Path

from dpjax.finetuning.setup.plan import Plan
from dpjax.privatize import RunKey
from dpjax.training import RunLedger


def ledger_of(plan: Plan, run_key: RunKey, run_id: str) -> RunLedger | None:
    """Returns the place of a planned run, or None if it keeps no ledger."""
    path = plan.config.privacy.ledger
    if path is None or plan.mechanism is None:
        return None
    return RunLedger(
        option="privacy.ledger",
        path=Path(path),
        dataset=plan.dataset,
        run_id=run_id,
        mechanism=plan.mechanism,
        key=run_key.fingerprint(),
        note=f"{plan.config.model} into {plan.config.output_dir}",
    )
