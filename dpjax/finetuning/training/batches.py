"""Rows as the loss reads them: single records, or the records that owners draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.data import EncodedRecords, Owners, trim_padding
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.setup.steps import drops_inputs, units_at_once
from dpjax.finetuning.tasks.base import Batch
from dpjax.finetuning.tasks.features import FeatureRecord
from dpjax.training import TrainingSteps


def encode_batch(
    run: Run, records: EncodedRecords, rows: np.ndarray, step: int
) -> Batch | FeatureRecord:
    """Returns the records at `rows`, `(b,)`, with their features where these were computed.

    Each drops what its own key says.
    """
    batch = run.plan.task.batch(trim_padding(records.take(rows)))
    if run.features is not None:
        return run.features.records(rows, batch)
    if not drops_inputs(run.plan.config):
        return batch
    return batch._replace(dropout_keys=_keys_of(run.run_key.dropout_key(step), rows))


def owner_batches(
    run: Run, records: EncodedRecords, owners: Owners, steps: TrainingSteps, step: int
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yields the microbatches of a step, units of at most k records `(b, k, ...)`, and their mask.

    An owner draws as `Owners.draw` says: alone, whatever other owners are in the batch. Where an
    owner does more than one gradient, the k records of a unit are in the form for that.
    """
    plan = run.plan
    training = plan.owner_training
    k = plan.config.privacy.records_per_owner
    lengths = records.lengths

    def draw(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        is_shuffled = training is not None
        return owners.draw(chosen, k, run.run_key, step, is_shuffled=is_shuffled)

    def by_longest_record(chosen: np.ndarray) -> np.ndarray:
        rows, is_record = draw(chosen)
        sizes = np.zeros(len(chosen)) if training is None else training.sizes(is_record.sum(axis=1))
        return chosen[np.lexsort((lengths[rows].max(axis=1, initial=0), sizes))]

    pieces = steps.batches(
        step, microbatch_size=units_at_once(plan, plan.microbatch_size), order=by_longest_record
    )
    for chosen, mask in pieces:
        rows, is_record = draw(chosen)
        if training is not None:
            rows, is_record = training.arrange(rows, is_record)
        batch = encode_batch(run, records, rows.reshape(-1), step)
        yield {"examples": _by_unit(batch, rows.shape), "mask": is_record}, mask


def _by_unit(batch: PyTree, axes: tuple[int, ...]) -> PyTree:
    """Returns the leaves with these leading axes in place of one."""
    return jax.tree.map(lambda leaf: leaf.reshape(*axes, *leaf.shape[1:]), batch)


@jax.jit
def _keys_of(key: jax.Array, rows: np.ndarray) -> jax.Array:
    """Key data `(b, 2)` uint32: that of a record does not depend on the batch it is in."""
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, rows))
