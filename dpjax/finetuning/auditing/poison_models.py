"""One model of a poisoning audit: trained on clean records and k poisoned ones, and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from dpjax.audit import PoisonedModel, TriggerCounts, greedy_tokens
from dpjax.basics.typing import PyTree
from dpjax.data import EncodedRecords, LanguageDataset, by_length, microbatches, trim_padding
from dpjax.finetuning.auditing.poison_data import PoisonData
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.finetuning.setup.model.feature_store import FeatureStore
from dpjax.finetuning.setup.model.features import loss_of_features
from dpjax.finetuning.setup.model.load import load_model
from dpjax.finetuning.setup.start import PlantedRecords, Run
from dpjax.finetuning.tasks.features import FeatureRecord, Features
from dpjax.finetuning.training.evaluate import evaluate, measure_fn_of
from dpjax.finetuning.training.features import compute_features
from dpjax.finetuning.training.loop import train
from dpjax.models import CausalLM, SplitModel, base_model
from dpjax.privatize import RunKey
from dpjax.training import Interrupts, delete

_QUIET = Console(quiet=True)


@dataclasses.dataclass(frozen=True)
class ModelName:
    """Which model of an audit.

    Attributes:
        setting: name of the privacy.
        number: which of the runs that differ by their key alone.
        kind: of the trigger; None of a clean model.
        poison_set: which random set; None of a clean model.
        num_poisoned: k; 0 of a clean model.
    """

    setting: str
    number: int
    kind: str | None = None
    poison_set: int | None = None
    num_poisoned: int = 0

    @property
    def words(self) -> str:
        """The model in words; another one has other words."""
        if self.kind is None:
            return f"{self.setting}, no poison, model {self.number}"
        return (
            f"{self.setting}, {self.kind}, {self.num_poisoned} records, set {self.poison_set}, "
            f"model {self.number}"
        )


class ComputedOnce:
    """What the frozen part of the model makes of the records: the same whatever the privacy.

    Args:
        data: whose records they are.
        console: shows the progress.
    """

    def __init__(self, data: PoisonData, console: Console) -> None:
        self._data, self._console = data, console
        self._features: Features | None = None
        self._stores: dict[int, FeatureStore] = {}

    def of(self, run: Run, records: EncodedRecords) -> FeatureStore | None:
        """Returns the features of records of the audit; None where models compute everything.

        Args:
            run: as `set_up` makes it; one after the other may ask.
            records: an object that stays, such as a field of the data.
        """
        features = run.plan.features
        # Features of a run with two stages are of two kinds; each model computes them by itself.
        if features is None or run.plan.first_step:
            return None
        if features != self._features:
            self._features, self._stores = features, {}
        if id(records) not in self._stores:
            store = compute_features(run, run.model, records, self._console)
            self._stores[id(records)] = store
        return self._stores[id(records)]


class PoisonedTraining:
    """Trains and measures models with one privacy.

    Args:
        run: as `set_up` makes it of the clean records.
        data: the poisoned records, and held-out ones with triggers.
        computed: what is computed once for all models.
    """

    def __init__(self, run: Run, data: PoisonData, computed: ComputedOnce) -> None:
        self._run, self._data, self._computed = run, data, computed
        self._predict = _label_losses(run)
        # Compiled once for all models.
        self._measure_fn = measure_fn_of(run.plan.task, run.model, run.layout)

    def train(
        self, name: ModelName, key: RunKey, directory: RunDirectory, interrupts: Interrupts
    ) -> PoisonedModel:
        """Trains one model and says what it does; the model itself is deleted.

        Args:
            name: which one.
            key: of this model alone.
            directory: where its steps are logged, and its states kept while it trains.
            interrupts: says when to stop.

        Raises:
            RunInterrupted: Ctrl-C or SIGTERM; the state after the last step is stored.
            RunDiverged: parameters or losses are not finite any more.
        """
        run, data = self._run, self._data
        present = data.present(name.kind, name.poison_set, name.num_poisoned)
        planted = dataclasses.replace(
            run,
            run_key=key,
            directory=directory,
            model=load_model(run.plan, key, run.layout),
            planted=PlantedRecords(data.slots, present),
            features=self._computed.of(run, data.slots),
        )
        directory.private.mkdir(parents=True, exist_ok=True)
        directory.private.chmod(0o700)
        trained = train(planted, _QUIET, lambda step: None, interrupts)
        tuned = planted.model.replace(trainable=trained.trainable)
        measured = self._measure(name, tuned)
        delete(directory.private)
        return measured

    def _measure(self, name: ModelName, tuned: SplitModel) -> PoisonedModel:
        data, is_labelled = self._data, self._run.plan.task.labels != ()
        kinds = list(data.triggered) if name.kind is None else [name.kind]
        without = self._gives_answer(tuned, data.others)
        counts = []
        for kind in kinds:
            each = data.triggered[kind]
            near = None if each.with_near is None else self._gives_answer(tuned, each.with_near)
            counts.append(
                TriggerCounts(
                    kind,
                    len(each.rows),
                    with_trigger=int(self._gives_answer(tuned, each.with_trigger).sum()),
                    without_trigger=int(without[each.rows].sum()),
                    with_near_trigger=None if near is None else int(near.sum()),
                )
            )
        accuracy = loss = None
        if is_labelled:
            accuracy = float(self._gives_answer(tuned, data.held_out).mean())
        else:
            loss = self._evaluate(tuned, data.held_out).loss
        return PoisonedModel(
            setting=name.setting,
            num_poisoned=name.num_poisoned,
            kind=name.kind,
            poison_set=name.poison_set,
            number=name.number,
            accuracy=accuracy,
            loss=loss,
            counts=tuple(counts),
        )

    def _evaluate(self, tuned: SplitModel, records: EncodedRecords) -> Any:
        run = self._run
        is_same = tuned.graphdef == run.model.graphdef
        measure = self._measure_fn if is_same else None
        return evaluate(run.plan.task, tuned, records, run.layout, measure=measure)

    def _gives_answer(self, tuned: SplitModel, records: EncodedRecords) -> np.ndarray:
        """`(N,)` bool: the label is predicted, or greedy decoding writes the completion."""
        run = self._run
        if isinstance(records, LanguageDataset):
            model = tuned.merge()
            assert isinstance(model, CausalLM)
            suspicion = run.plan.config.generation.suspicion
            written = greedy_tokens(
                model,
                records,
                reference=None if suspicion is None else base_model(model),
                suspicion=suspicion,
                batch_size=run.plan.task.evaluation_batch_size,
            )
            is_target = records.loss_mask
            is_written: np.ndarray = ((written == records.input_ids) | ~is_target).all(axis=1)
            return is_written & is_target.any(axis=1)
        store = None if self._predict is None else self._computed.of(run, records)
        if store is None or self._predict is None:
            return np.asarray(self._evaluate(tuned, records).correct)
        found = np.zeros(len(records), np.bool_)
        size = min(run.plan.task.evaluation_batch_size, len(records))
        for rows, mask in microbatches(by_length(records, np.arange(len(records))), size):
            batch = run.plan.task.batch(trim_padding(records.take(rows)))
            losses = self._predict(tuned.trainable, tuned.frozen, store.records(rows, batch))
            right = np.asarray(losses).argmin(axis=0) == np.asarray(batch.labels)  # type: ignore[attr-defined]
            found[rows[mask]] = (right & np.isfinite(losses).all(axis=0))[mask]
        return found


def _label_losses(run: Run) -> Callable[[PyTree, PyTree, FeatureRecord], jax.Array] | None:
    """Makes the function to the loss of every label, `(K, b)`; the least is that of the prediction.

    Smoothing of labels adds the same to all of them. None where labels are no part of what the
    loss reads beside the features.
    """
    plan = run.plan
    example = plan.task.batch(plan.train.take(np.zeros(1, np.int64)))
    if plan.features is None or not hasattr(example, "labels"):
        return None
    if plan.features.without_unread(example).labels is None:
        return None
    loss = loss_of_features(plan, plan.features, plan.task.loss_fn(run.model.graphdef))

    @jax.jit
    def losses(trainable: PyTree, frozen: PyTree, batch: FeatureRecord) -> jax.Array:
        def of_label(label: int) -> jax.Array:
            labels = jnp.full_like(batch.record.labels, label)
            records = FeatureRecord(batch.features, batch.record._replace(labels=labels))
            return jax.vmap(loss, (None, 0, None))(trainable, records, frozen)

        return jnp.stack([of_label(label) for label in range(len(plan.task.labels))])

    return losses
