"""Losses of a model over records, without gradients."""

from __future__ import annotations

import numpy as np

from dpjax.data import EncodedRecords, by_length, microbatches, trim_padding
from dpjax.finetuning.tasks.base import Evaluation, Task
from dpjax.models import SplitModel


def evaluate(task: Task, model: SplitModel, data: EncodedRecords) -> Evaluation:
    """Runs the model over all records, in batches of a few static shapes."""
    measure = task.measure_fn(model.graphdef)
    losses = np.empty(len(data), np.float32)
    outcomes = np.empty(len(data), np.int32)
    ordered = by_length(data, np.arange(len(data)))
    for rows, mask in microbatches(ordered, min(task.evaluation_batch_size, len(data))):
        batch = task.batch(trim_padding(data.take(rows)))
        batch_losses, batch_outcomes = measure(model.trainable, model.frozen, batch)
        kept = rows[mask]
        losses[kept] = np.asarray(batch_losses)[mask]
        outcomes[kept] = np.asarray(batch_outcomes)[mask]
    return task.evaluation(losses, outcomes, data)
