"""The frozen part of a model on all records of a run, computed once before the first step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console

from dpjax.data import EncodedRecords, by_length, microbatches, trim_padding
from dpjax.finetuning.setup.model.feature_store import FeatureStore
from dpjax.finetuning.setup.model.features import feature_maker
from dpjax.finetuning.setup.start import Run
from dpjax.models import SplitModel
from dpjax.training import CountProgress, in_words


def with_features(run: Run, model: SplitModel, console: Console) -> Run:
    """Returns the run with the features of its records, if its steps are to read any.

    What was computed before stays. They stay in memory: like the records, they are secret.

    Args:
        run: what `set_up` made.
        model: that of the run, on the devices that compute.
        console: shows the progress.
    """
    if run.plan.features is None or run.features is not None:
        return run
    return dataclasses.replace(run, features=compute_features(run, model, run.slots, console))


def compute_features(
    run: Run, model: SplitModel, records: EncodedRecords, console: Console
) -> FeatureStore:
    """Returns the features of records, which need not be those of the run.

    Args:
        run: whose plan has features.
        model: that of the run, on the devices that compute.
        records: encoded as those of the run.
        console: shows the progress.
    """
    features = run.plan.features
    assert features is not None
    start = time.monotonic()
    batches = list(_batches(run, records))
    lengths = np.zeros(len(records), np.int64)
    for rows, mask in batches:
        lengths[rows[mask]] = _trimmed(records, rows).input_ids.shape[1]
    store = FeatureStore(features, lengths)
    compute, done = _compiled(run, feature_maker(run.plan, features, model.graphdef)), 0
    with CountProgress(console, "computing the frozen part of records", len(records)) as progress:
        for rows, mask in batches:
            batch = run.plan.task.batch(_trimmed(records, rows))
            batch = batch if run.layout is None else run.layout.place_rows(batch)
            values = compute(model.trainable, model.frozen, batch)
            store.put(rows[mask], [np.asarray(value)[mask] for value in values])
            done += int(mask.sum())
            progress.show(done)
    console.print(
        f"the frozen part of the model is computed for {len(records)} records: "
        f"{in_words(store.num_bytes)}, {time.monotonic() - start:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    return store


def _batches(run: Run, records: EncodedRecords) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All records, those of similar lengths together; the same ones in each resumption."""
    size = min(run.plan.task.evaluation_batch_size, len(records))
    if run.layout is not None:
        size = run.layout.divisible(size)
    return microbatches(by_length(records, np.arange(len(records))), size)


def _trimmed(records: EncodedRecords, rows: np.ndarray) -> EncodedRecords:
    return trim_padding(records.take(rows))


def _compiled(run: Run, compute: Callable[..., Any]) -> Callable[..., Any]:
    if run.layout is not None:
        compute = run.layout.gathering(compute, params_at=(0, 1))
    return jax.jit(compute)
