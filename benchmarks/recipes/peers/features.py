"""Features of the records of a recipe, made by dpjax once for all libraries and keys."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dpjax_accounting import default_delta
from rich.console import Console

from benchmarks.recipes.peers.head_task import Head, HeadData, head_loss
from benchmarks.recipes.recipe import Recipe
from dpjax.data import EncodedRecords
from dpjax.finetuning import set_up
from dpjax.finetuning.setup.model.features import find_features
from dpjax.finetuning.setup.model.load import load_model
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.setup.steps import unit_loss_of
from dpjax.finetuning.tasks.features import FeatureRecord
from dpjax.finetuning.training.features import with_features
from dpjax.privatize import RunKey

# So many records have their loss computed by dpjax too, before any head is tuned.
_NUM_CHECKED = 8


class NotComparable(Exception):
    """Says why other libraries cannot run a recipe."""


def make_head_data(
    recipe: Recipe, data: dict[str, Any], folder: Path, changes: dict[str, Any]
) -> HeadData:
    """Computes what the frozen model makes of all records; they stay in memory.

    Args:
        recipe: that `why_not` has nothing against.
        data: what its `write_data` returned.
        folder: of its runs; nothing is written there.
        changes: of the group `training`.

    Raises:
        NotComparable: what is trained is not one linear layer on features of records.
    """
    # Of microbatches only dpjax's own steps would be made.
    changes = {**changes, "microbatch_size": 32}
    run = set_up(recipe.config(data, folder / "features", None, **changes))
    assert isinstance(run, Run)
    # A short run of dpjax may compute them in each step; other libraries never do.
    plan = dataclasses.replace(run.plan, features=find_features(run.plan, run.model))
    run = dataclasses.replace(run, plan=plan)
    _check_is_linear(run)
    features = _compute(run, plan.train)
    _check_losses(run, features)
    delta = plan.config.privacy.delta
    return HeadData(
        features=features,
        labels=_labels(plan.train),
        held_out_features=_compute(run, plan.evaluation),
        held_out_labels=_labels(plan.evaluation),
        draw_start=lambda: _head(load_model(plan, RunKey.from_os_entropy(), None).trainable),
        num_steps=plan.num_steps,
        delta=default_delta(plan.num_units) if delta is None else delta,
    )


def _check_is_linear(run: Run) -> None:
    """Refuses what is no linear layer whose inputs are all that is read of a record."""
    features, trained = run.plan.features, run.model.trainable
    arrays = () if features is None else features.arrays
    is_linear = (
        set(trained) == {"classifier"}
        and {"kernel"} <= set(trained["classifier"]) <= {"kernel", "bias"}
        and [array.shape for array in arrays] == [trained["classifier"]["kernel"].shape[:1]]
    )
    if not is_linear:
        raise NotComparable("its head is not one linear layer on features that can be computed")


def _check_losses(run: Run, features: np.ndarray) -> None:
    """Refuses a head whose losses are not those of a linear layer."""
    plan, rows = run.plan, np.arange(min(_NUM_CHECKED, len(features)))
    assert plan.features is not None
    batch = plan.task.batch(plan.train.take(rows))
    records = FeatureRecord((features[rows],), plan.features.without_unread(batch))
    loss = jax.vmap(unit_loss_of(plan, run.model.graphdef), (None, 0, None))
    expected = loss(run.model.trainable, records, run.model.frozen)
    linear = functools.partial(head_loss, label_smoothing=plan.config.training.label_smoothing)
    examples = (features[rows], _labels(plan.train)[rows])
    found = jax.vmap(linear, (None, 0))(_head(run.model.trainable), examples)
    if not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise NotComparable(
            f"its head is not one linear layer: the losses of the first records are {expected}, "
            f"and {found} by a linear layer"
        )


def _compute(run: Run, records: EncodedRecords) -> np.ndarray:
    """Returns the features of records, `(N, d)`."""
    of_records = dataclasses.replace(run, plan=dataclasses.replace(run.plan, train=records))
    store = with_features(of_records, run.model, Console(quiet=True)).features
    assert store is not None
    # No feature grows with the tokens of a record: any length is that of all.
    (features,) = store.take(np.arange(len(records)), run.plan.config.training.max_length)
    return features.astype(np.float32)


def _head(trainable: Any) -> Head:
    return {name: np.asarray(leaf) for name, leaf in trainable["classifier"].items()}


def _labels(records: Any) -> np.ndarray:
    return np.asarray(records.labels, np.int32)
