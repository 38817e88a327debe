"""Texts whose words have a tag each, such as names of persons and places."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.basics.typing import PyTree
from dpjax.data import (
    TaggedDataset,
    TaggedWords,
    encode_tagged_words,
    label_names,
    read_tagged_words,
)
from dpjax.finetuning.config import CanaryKindName, FinetuneConfig, ScoreName
from dpjax.finetuning.tasks.base import Evaluation, Loss, Measure, Task, merge_for_record
from dpjax.finetuning.tasks.tag_spans import SpanCounts, count_spans, mark_spans, sum_of
from dpjax.models import (
    Loading,
    Model,
    TransformerConfig,
    load_token_classifier,
    token_classification_loss,
)
from dpjax.models import Task as ModelTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TaggedBatch(NamedTuple):
    """Encoded texts of one static shape, all `(b, T)`: int32, bool, int32, bool.

    `dropout_keys`, `(b, 2)` uint32, is there while adapters are trained with dropout.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    labels: jax.Array
    loss_mask: jax.Array
    dropout_keys: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class TaggedEvaluation(Evaluation):
    """What a classifier of tokens makes of each text.

    The loss of a text is the mean over its words.

    Attributes:
        num_correct: `(N,)` int32, how many tags of each text are right.
        num_words: `(N,)` int32, how many words of each text count.
        spans: how many spans of each type are found; empty where tags mark none.
    """

    num_correct: np.ndarray
    num_words: np.ndarray
    spans: Mapping[str, SpanCounts] = dataclasses.field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of all words whose tag is predicted."""
        return float(self.num_correct.sum() / max(1, self.num_words.sum()))

    @property
    def quality(self) -> tuple[str, str]:
        """Name and value of the accuracy."""
        return "Accuracy on held-out words", f"{self.accuracy:.4f} of {self.num_words.sum()}"

    @property
    def span_f1(self) -> float | None:
        """F1 of all spans; None where tags mark none."""
        return sum_of(self.spans.values()).f1 if self.spans else None

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """F1, precision and recall of all spans, and of those of each type."""
        if not self.spans:
            return ()
        rows = {"Spans": sum_of(self.spans.values())}
        rows |= {f"Spans of {kind}": counts for kind, counts in self.spans.items()}
        return tuple(
            (
                name,
                f"F1 {c.f1:.4f}, precision {c.precision:.4f}, recall {c.recall:.4f} of {c.there}",
            )
            for name, c in rows.items()
        )

    @property
    def remark(self) -> str:
        """Says that such a text has no right tag."""
        return ", and their words count as wrong"


@dataclasses.dataclass(frozen=True)
class TokenClassification(Task):
    """Each word of a text has one of several tags.

    Attributes:
        labels: the tags, in the order of the logits; empty before the records are read.
    """

    labels: tuple[str, ...] = ()

    canary_kinds: ClassVar[tuple[CanaryKindName, ...]] = ("random-labelled", "mislabelled")
    audit_scores: ClassVar[tuple[ScoreName, ...]] = ("loss",)

    @classmethod
    def from_config(
        cls, config: FinetuneConfig, started_at: datetime.datetime
    ) -> TokenClassification:
        """Makes the task; its tags are not known yet."""
        del config, started_at
        return cls()

    def model_task(self, model: TransformerConfig) -> ModelTask:
        """Returns the task of this name."""
        del model
        return "token_classification"

    def read(self, config: FinetuneConfig) -> tuple[TaggedWords, TaggedWords]:
        """Reads the words with their tags."""
        return read_tagged_words(config.train_data), read_tagged_words(config.eval_data)

    def with_training_records(
        self, train: TaggedWords, held_out: TaggedWords
    ) -> TokenClassification:
        """Returns the task with the set of tags that training records have."""
        return dataclasses.replace(self, labels=label_names(train, held_out))

    def encode(
        self, records: TaggedWords, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> TaggedDataset:
        """Returns the records as arrays."""
        return encode_tagged_words(records, tokenizer, self.labels, max_length)

    def load(
        self, checkpoint: Path, config: FinetuneConfig, key: jax.Array, loading: Loading
    ) -> Model:
        """Loads the checkpoint as a classifier of tokens."""
        return load_token_classifier(
            checkpoint,
            label_names=self.labels,
            key=key,
            loading=loading,
        )

    def batch(self, records: TaggedDataset) -> TaggedBatch:
        """Returns ids, mask, tags and where they count."""
        return TaggedBatch(
            records.input_ids, records.attention_mask, records.labels, records.loss_mask
        )

    def loss_fn(self, graphdef: Any) -> Loss:
        """Makes the mean cross-entropy over the words of a text, in nats."""

        def loss(trainable: PyTree, record: TaggedBatch, frozen: PyTree) -> jax.Array:
            model = merge_for_record(graphdef, trainable, frozen, record)
            logits = model(record.input_ids, record.attention_mask)
            return token_classification_loss(logits, record.labels, record.loss_mask)

        return loss

    def measure_fn(self, graphdef: Any) -> Measure:
        """Makes the function to losses and predicted tags of a batch."""

        @jax.jit
        def measure(
            trainable: PyTree, frozen: PyTree, batch: TaggedBatch
        ) -> tuple[jax.Array, jax.Array]:
            logits = nnx.merge(graphdef, trainable, frozen)(batch.input_ids, batch.attention_mask)
            losses = jax.vmap(token_classification_loss)(logits, batch.labels, batch.loss_mask)
            return losses, jnp.argmax(logits, axis=-1)

        return measure

    def evaluation(
        self, losses: np.ndarray, outcomes: np.ndarray, data: TaggedDataset
    ) -> TaggedEvaluation:
        """Compares predicted tags and spans with those of the words that count."""
        predicted = np.where(np.isfinite(losses)[:, None], outcomes, -1)
        is_right = (predicted == data.labels) & data.loss_mask
        spans: dict[str, SpanCounts] = {}
        if mark_spans(self.labels):
            own, there = (self._named(tags, data.loss_mask) for tags in (predicted, data.labels))
            spans = count_spans(own, there)
        return TaggedEvaluation(losses, is_right.sum(axis=1), data.loss_mask.sum(axis=1), spans)

    def _named(self, tags: np.ndarray, counts: np.ndarray) -> list[list[str]]:
        """Returns the tags `(N, T)` of the words that count by name; O for -1."""
        names = [*self.labels, "O"]
        rows = zip(tags, counts, strict=True)
        return [[names[tag] for tag in row[mask]] for row, mask in rows]

    def summary(self) -> str:
        """Says how many tags there are."""
        return f"{len(self.labels)} tags"
