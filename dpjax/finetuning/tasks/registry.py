"""What a run learns: the difference between classifying texts and writing them.

Everything else in a run is the same for every task.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import jax
import optax
from flax import nnx

from dpjax.data import (
    EncodedRecords,
    LanguageDataset,
    LanguageRecords,
    RecordColumns,
    Records,
    TextDataset,
    encode_labelled,
    encode_language,
    label_names,
    read_language_records,
    read_records,
)
from dpjax.finetuning.config.options import FinetuneConfig
from dpjax.models import Loading, Model, drop_inputs, load_causal_lm, load_classifier
from dpjax.models.text.losses import causal_lm_loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PyTree = Any
Loss = Callable[[PyTree, Any], jax.Array]
LossOfFrozen = Callable[[PyTree], Loss]


class LabelledBatch(NamedTuple):
    """Encoded texts of one static shape: `(b, T)` int32, `(b, T)` bool, `(b,)` int32.

    `dropout_keys`, `(b, 2)` uint32, is there while adapters are trained with dropout.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    labels: jax.Array
    dropout_keys: jax.Array | None = None


class LanguageBatch(NamedTuple):
    """Encoded texts of one static shape: `(b, T)` int32, and twice `(b, T)` bool.

    `dropout_keys` as in `LabelledBatch`.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    loss_mask: jax.Array
    dropout_keys: jax.Array | None = None


class Task(Protocol):
    """What a run needs to know of its task."""

    labels: tuple[str, ...]

    def read(self, config: FinetuneConfig) -> tuple[RecordColumns, RecordColumns]:
        """The training and the evaluation records."""

    def encoded(
        self, records: RecordColumns, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> EncodedRecords:
        """The records as arrays."""

    def load(self, checkpoint: Path, config: FinetuneConfig, key: jax.Array) -> Model:
        """The pretrained model, with a new head made from `key` where it needs one."""

    def batch(self, records: EncodedRecords) -> LabelledBatch | LanguageBatch:
        """What the loss reads, with a leading axis of records."""

    def loss_of(self, graphdef: Any) -> LossOfFrozen:
        """From the frozen parameters to the loss of one record, `(trainable, record) -> scalar`."""

    def summary(self) -> str:
        """What the data has, for people: its labels, for instance."""


@dataclasses.dataclass(frozen=True)
class SequenceClassification:
    """Each text has one of several labels."""

    labels: tuple[str, ...] = ()
    label_smoothing: float = 0.0

    def read(self, config: FinetuneConfig) -> tuple[Records, Records]:
        """The records with their labels."""
        return read_records(config.train_data), read_records(config.eval_data)

    def with_labels_of(self, train: Records, held_out: Records) -> SequenceClassification:
        """The task with the set of labels that training records have."""
        return dataclasses.replace(self, labels=label_names(train, held_out))

    def encoded(
        self, records: Records, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> TextDataset:
        """The records as arrays."""
        return encode_labelled(records, tokenizer, self.labels, max_length)

    def load(self, checkpoint: Path, config: FinetuneConfig, key: jax.Array) -> Model:
        """The checkpoint as a classifier."""
        return load_classifier(
            checkpoint,
            label_names=self.labels,
            key=key,
            pooling=config.pooling,
            num_layers=config.num_layers,
            loading=loading_of(config),
        )

    def batch(self, records: TextDataset) -> LabelledBatch:
        """Ids, mask and labels."""
        return LabelledBatch(records.input_ids, records.attention_mask, records.labels)

    def loss_of(self, graphdef: Any) -> LossOfFrozen:
        """Cross-entropy with smoothed labels, in nats."""

        def with_frozen(frozen: PyTree) -> Loss:
            def loss(trainable: PyTree, record: LabelledBatch) -> jax.Array:
                model = _merged(graphdef, trainable, frozen, record)
                logits = model(record.input_ids, record.attention_mask)
                target = jax.nn.one_hot(record.labels, logits.shape[-1])
                smoothed = optax.smooth_labels(target, self.label_smoothing)
                return optax.softmax_cross_entropy(logits, smoothed)

            return loss

        return with_frozen

    def summary(self) -> str:
        """How many labels there are."""
        return f"{len(self.labels)} labels"


@dataclasses.dataclass(frozen=True)
class CausalLanguage:
    """Texts, or the answers in them, are to be written token by token.

    `today` is the date and time that chat templates are given.
    """

    reduction: Literal["mean", "sum"] = "mean"
    vocab_chunk: int | None = None
    separator: str = ""
    today: datetime.datetime | None = None
    labels: tuple[str, ...] = ()

    def read(self, config: FinetuneConfig) -> tuple[LanguageRecords, LanguageRecords]:
        """Texts, prompts with completions, or conversations."""
        train = read_language_records(config.train_data)
        held_out = read_language_records(config.eval_data)
        if type(train) is not type(held_out):
            raise ValueError(
                f"train_data holds {type(train).__name__.lower()}, eval_data "
                f"{type(held_out).__name__.lower()}; both must have the same columns"
            )
        return train, held_out

    def encoded(
        self, records: LanguageRecords, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> LanguageDataset:
        """The records as arrays, with the tokens that count."""
        return encode_language(
            records, tokenizer, max_length, separator=self.separator, today=self.today
        )

    def load(self, checkpoint: Path, config: FinetuneConfig, key: jax.Array) -> Model:
        """The checkpoint as a language model; nothing in it is new."""
        del key
        if config.num_layers is not None:
            raise ValueError(
                f"num_layers={config.num_layers} is for classifiers: a language model with layers "
                "taken away writes nothing sensible"
            )
        return load_causal_lm(checkpoint, loading=loading_of(config))

    def batch(self, records: LanguageDataset) -> LanguageBatch:
        """Ids, mask and the tokens that count."""
        return LanguageBatch(records.input_ids, records.attention_mask, records.loss_mask)

    def loss_of(self, graphdef: Any) -> LossOfFrozen:
        """Cross-entropy of the tokens that count, their sum or mean, in nats."""

        def with_frozen(frozen: PyTree) -> Loss:
            def loss(trainable: PyTree, record: LanguageBatch) -> jax.Array:
                model = _merged(graphdef, trainable, frozen, record)
                # Nothing follows the last token.
                hidden = model.hidden_states(record.input_ids, record.attention_mask)[:-1]
                head, vocab_axis = model.head_weights()
                return causal_lm_loss(
                    hidden,
                    head,
                    vocab_axis=vocab_axis,
                    targets=record.input_ids[1:],
                    loss_mask=record.loss_mask[1:],
                    reduction=self.reduction,
                    vocab_chunk=self.vocab_chunk,
                    logit_softcap=model.config.logit_softcap,
                )

            return loss

        return with_frozen

    def summary(self) -> str:
        """What the loss is."""
        return f"the {self.reduction} of the loss over the tokens that count"


def task_of(
    config: FinetuneConfig, started_at: datetime.datetime
) -> SequenceClassification | CausalLanguage:
    """The task of a run; a classifier's labels are not known yet."""
    if config.task == "sequence_classification":
        return SequenceClassification(label_smoothing=config.training.label_smoothing)
    training = config.training
    return CausalLanguage(
        training.loss_reduction, config.compute.vocab_chunk, config.separator, started_at
    )


def _merged(
    graphdef: Any, trainable: PyTree, frozen: PyTree, record: LabelledBatch | LanguageBatch
) -> Any:
    """The model for one record, with what this record drops."""
    model = nnx.merge(graphdef, trainable, frozen)
    if record.dropout_keys is not None:
        drop_inputs(model, jax.random.wrap_key_data(record.dropout_keys, impl="threefry2x32"))
    return model


def loading_of(config: FinetuneConfig) -> Loading:
    """How the checkpoint is loaded."""
    compute = config.compute
    return Loading(
        param_dtype=compute.frozen_dtype,
        dtype=compute.dtype,
        attention=compute.attention,
        scan_layers=compute.scan_layers,
        rematerialise=compute.rematerialise,
    )
