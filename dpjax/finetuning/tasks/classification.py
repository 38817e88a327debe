"""Texts that have one of several labels each."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dpjax.basics.option_checks import did_you_mean
from dpjax.basics.typing import PyTree
from dpjax.data import Records, TextDataset, encode_labelled, label_names, read_records
from dpjax.finetuning.config import CanaryKindName, FinetuneConfig, ScoreName
from dpjax.finetuning.tasks.base import Evaluation, Loss, Measure, Task, merge_for_record
from dpjax.models import (
    Loading,
    Model,
    SequenceClassifier,
    TransformerConfig,
    centre_features,
    load_classifier,
    load_tokenizer,
    read_config,
    sequence_classification_loss,
    start_from_words,
)
from dpjax.models import Task as ModelTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LabelledBatch(NamedTuple):
    """Encoded texts of one static shape: `(b, T)` int32, `(b, T)` bool, `(b,)` int32.

    `dropout_keys`, `(b, 2)` uint32, is there while adapters are trained with dropout.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    labels: jax.Array
    dropout_keys: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class LabelledEvaluation(Evaluation):
    """What a classifier makes of each text.

    Attributes:
        correct: `(N,)` bool, whether the predicted label is right. A prediction whose loss is not
            finite is not right.
    """

    correct: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of records whose label is predicted."""
        return float(np.mean(self.correct))

    @property
    def quality(self) -> tuple[str, str]:
        """Name and value of the accuracy."""
        return "Accuracy on held-out records", f"{self.accuracy:.4f} of {len(self.losses)}"

    @property
    def remark(self) -> str:
        """Says that such a prediction is not right."""
        return ", and count as wrong"


@dataclasses.dataclass(frozen=True)
class SequenceClassification(Task):
    """Each text has one of several labels.

    Attributes:
        labels: their names, in the order of the logits; empty before the records are read.
        label_smoothing: share of the target that is spread evenly over all labels.
        words: what each label is called, in the order in which they are given; empty without.
    """

    labels: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    words: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    canary_kinds: ClassVar[tuple[CanaryKindName, ...]] = ("random-labelled", "mislabelled")
    audit_scores: ClassVar[tuple[ScoreName, ...]] = ("loss",)

    @classmethod
    def from_config(
        cls, config: FinetuneConfig, started_at: datetime.datetime
    ) -> SequenceClassification:
        """Makes the task; its labels are not known yet."""
        del started_at
        return cls(label_smoothing=config.training.label_smoothing, words=config.head.words())

    def model_task(self, model: TransformerConfig) -> ModelTask:
        """Returns the task of this name."""
        del model
        return "sequence_classification"

    def read(self, config: FinetuneConfig) -> tuple[Records, Records]:
        """Reads the records with their labels."""
        return read_records(config.train_data), read_records(config.eval_data)

    def with_training_records(self, train: Records, held_out: Records) -> SequenceClassification:
        """Returns the task with the set of labels that training records have."""
        labels = label_names(train, held_out)
        if self.words:
            check_words_of(labels, self.words)
        return dataclasses.replace(self, labels=labels)

    def encode(
        self, records: Records, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> TextDataset:
        """Returns the records as arrays."""
        return encode_labelled(records, tokenizer, self.labels, max_length)

    def load(
        self, checkpoint: Path, config: FinetuneConfig, key: jax.Array, loading: Loading
    ) -> Model:
        """Loads the checkpoint as a classifier."""
        layers = config.features.layers
        model = load_classifier(
            checkpoint,
            label_names=self.labels,
            key=key,
            pooling=config.pooling,
            num_layers=config.num_layers,
            feature_layers=layers,
            loading=loading,
        )
        norms = None
        # A checkpoint that reads these features already has their centre.
        if layers and read_config(checkpoint).feature_layers != layers:
            norms = self.centre(model, load_tokenizer(checkpoint, needs_padding=False), config)
        if self.words:
            self.start_from_words(model, checkpoint, norms)
        return model

    def centre(
        self, model: SequenceClassifier, tokenizer: PreTrainedTokenizerBase, config: FinetuneConfig
    ) -> np.ndarray:
        """Sets the centre of a new classifier's features; returns the norms of each layer."""
        del config
        return centre_features(model, tokenizer)

    def start_from_words(
        self, model: SequenceClassifier, checkpoint: Path, norms: np.ndarray | None
    ) -> None:
        """Sets the classifier to what its labels are called; norms as `centre` returned them."""
        del norms
        words = [self.words[label] for label in self.labels]
        start_from_words(model, load_tokenizer(checkpoint, needs_padding=True), words)

    def batch(self, records: TextDataset) -> LabelledBatch:
        """Returns ids, mask and labels."""
        return LabelledBatch(records.input_ids, records.attention_mask, records.labels)

    def loss_fn(self, graphdef: Any) -> Loss:
        """Makes the cross-entropy with smoothed labels, in nats."""

        def loss(trainable: PyTree, record: LabelledBatch, frozen: PyTree) -> jax.Array:
            model = merge_for_record(graphdef, trainable, frozen, record)
            logits = model(record.input_ids, record.attention_mask)
            return sequence_classification_loss(logits, record.labels, self.label_smoothing)

        return loss

    def measure_fn(self, graphdef: Any) -> Measure:
        """Makes the function to losses and predicted labels of a batch."""

        @jax.jit
        def measure(
            trainable: PyTree, frozen: PyTree, batch: LabelledBatch
        ) -> tuple[jax.Array, jax.Array]:
            logits = nnx.merge(graphdef, trainable, frozen)(batch.input_ids, batch.attention_mask)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            return losses, jnp.argmax(logits, axis=-1)

        return measure

    def evaluation(
        self, losses: np.ndarray, outcomes: np.ndarray, data: TextDataset
    ) -> LabelledEvaluation:
        """Compares predicted labels with those of the data."""
        return LabelledEvaluation(losses, (outcomes == data.labels) & np.isfinite(losses))

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Says what the labels are called, where the head starts from it."""
        if not self.words:
            return ()
        return (f"The words that the head starts from ({self.words_in_text()}) are public.",)

    def words_in_text(self) -> str:
        """Returns the words of all labels."""
        return "; ".join(f"{label}: {', '.join(self.words[label])}" for label in self.labels)

    def summary(self) -> str:
        """Says how many labels there are."""
        return f"{len(self.labels)} labels"


def check_words_of(labels: Sequence[str], words: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError unless the words are those of exactly these labels.

    Args:
        labels: of the training records.
        words: what is given as head.label_words.
    """
    for label in words:
        if label not in labels:
            raise ValueError(
                f"head.label_words has the label {label!r}, which no training record has; there are"
                f" {', '.join(labels)}." + did_you_mean(label, labels)
            )
    missing = [label for label in labels if label not in words]
    if missing:
        raise ValueError(
            f"head.label_words lacks the label {missing[0]!r} of the training records: give words "
            f"for each of {', '.join(labels)}"
        )
