"""How well a tuned model does for each owner of training records: private, as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpjax.data import EncodedRecords, Owners
from dpjax.finetuning.tasks.base import Task
from dpjax.finetuning.training.evaluate import evaluate
from dpjax.models import SplitModel
from dpjax.training import Layout

PRIVATE = (
    "Private: computed from the training records of each client without noise. No ε covers it. Do "
    "not publish it."
)


def evaluate_owners(
    task: Task, model: SplitModel, data: EncodedRecords, owners: Owners, layout: Layout | None
) -> dict[str, Any]:
    """Returns loss, and accuracy where records have one, of each owner and over owners.

    An owner's loss is the mean over the records whose loss is finite, and null without one.

    Args:
        task: of the run.
        model: after the last step.
        data: the training records.
        owners: whose they are.
        layout: where parameters lie; None for a single device.
    """
    evaluation = evaluate(task, model, data, layout)
    correct = getattr(evaluation, "correct", None)
    if correct is not None and correct.shape != (len(data),):
        correct = None
    told = []
    for owner in range(len(owners)):
        rows = owners.rows_of(owner)
        losses = evaluation.losses[rows].astype(np.float64)
        losses = losses[np.isfinite(losses)]
        own = {"num_records": len(rows), "loss": float(losses.mean()) if len(losses) else None}
        if correct is not None:
            own["accuracy"] = float(np.mean(correct[rows]))
        told.append(own)
    summary = {
        name: _summary([own[name] for own in told if own.get(name) is not None])
        for name in ("num_records", "loss", "accuracy")
    }
    over = {name: numbers for name, numbers in summary.items() if numbers is not None}
    return {"warning": PRIVATE, "num_clients": len(owners), "over_clients": over, "clients": told}


def in_words(told: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Returns name and value for the table of results."""
    name = "accuracy" if "accuracy" in told["over_clients"] else "loss"
    if name not in told["over_clients"]:
        return ()
    numbers = told["over_clients"][name]
    value = ", ".join(f"{key} {number:.4f}" for key, number in numbers.items())
    return ((f"{name.capitalize()} of a client on its own records (private)", value),)


def _summary(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    low, middle, high = np.quantile(np.asarray(values, np.float64), (0.0, 0.5, 1.0))
    return {"min": float(low), "median": float(middle), "max": float(high)}
