"""Losses of a model over records, without gradients."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dpjax.data import EncodedRecords, by_length, microbatches, trim_padding
from dpjax.finetuning.tasks.base import Evaluation, Measure, Task
from dpjax.models import SplitModel
from dpjax.training import Layout


def evaluate(
    task: Task,
    model: SplitModel,
    data: EncodedRecords,
    layout: Layout | None = None,
    *,
    measure: Measure | None = None,
) -> Evaluation:
    """Runs the model over all records, in batches of a few static shapes.

    Every process of a layout must call it, and each returns the same.

    Args:
        task: of the run.
        model: is evaluated.
        data: the records.
        layout: where parameters lie; None for a single device.
        measure: what `measure_fn_of` made for models of this structure, compiled once for all of
            them; None to compile it here.
    """
    if measure is None:
        measure = measure_fn_of(task, model, layout)
    losses = np.empty(len(data), np.float32)
    outcomes: np.ndarray | None = None
    ordered = by_length(data, np.arange(len(data)))
    size = min(task.evaluation_batch_size, len(data))
    if layout is not None:
        size = layout.divisible(size)
    for rows, mask in microbatches(ordered, size):
        batch = task.batch(trim_padding(data.take(rows)))
        batch = batch if layout is None else layout.place_rows(batch)
        batch_losses, batch_outcomes = measure(model.trainable, model.frozen, batch)
        kept = rows[mask]
        losses[kept] = np.asarray(batch_losses)[mask]
        # One for each record, or for each token that was not trimmed.
        of_batch = np.asarray(batch_outcomes)[mask]
        if outcomes is None:
            outcomes = np.zeros(data.input_ids.shape[: of_batch.ndim], of_batch.dtype)
        outcomes[(kept, *map(slice, of_batch.shape[1:]))] = of_batch
    assert outcomes is not None
    return task.evaluation(losses, outcomes, data)


def measure_fn_of(task: Task, model: SplitModel, layout: Layout | None = None) -> Measure:
    """Makes the compiled function of `evaluate` for models with the structure of this one.

    Args:
        task: of the run.
        model: gives the structure.
        layout: where parameters lie; None for a single device.
    """
    return _gathering(task.measure_fn(model.graphdef), layout)


def _gathering(measure: Measure, layout: Layout | None) -> Measure:
    """The same measure; parameters that are spread over devices are gathered where it uses them."""
    if layout is None:
        return measure
    gathering = layout.gathering(measure, params_at=(0, 1))
    whole = NamedSharding(layout.mesh, PartitionSpec())
    if whole.is_fully_addressable:
        return jax.jit(gathering)
    return jax.jit(gathering, out_shardings=whole)
