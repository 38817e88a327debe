"""The section of a privacy report on what a data set has spent over its lifetime."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpjax_accounting.ledger.ledger import Ledger


def dataset_total(ledger: Ledger, delta: float) -> dict[str, Any]:
    """Returns the ε at `delta` of everything in the ledger, with the mechanism it follows from.

    The fields are those of dataset_total in report/privacy-report.schema.json. The hash of the data
    is not among them, since it is private.

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: if `delta` is out of range, or the loss too large to account for.
        TamperedError: if the ledger is not what was written.
    """
    # Read before the rest: whatever another process adds meanwhile can only make that more.
    head = ledger.head
    composition = ledger.composition()
    return {
        "num_runs": sum(entry.num_steps != 0 for entry in ledger.entries()),
        "epsilon": 0.0 if composition is None else composition.epsilon(delta),
        "delta": delta,
        "mechanism": None if composition is None else composition.to_dict(),
        "ledger_head": dataclasses.asdict(head),
    }
