"""Interface between a run and its task: everything that tasks differ in."""

from __future__ import annotations

import abc
import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import jax
import numpy as np
from flax import nnx

from dpjax.basics.typing import PyTree
from dpjax.data import EncodedPrompts, EncodedRecords, Prompt, RecordColumns
from dpjax.finetuning.config import CanaryKindName, FinetuneConfig, ScoreName
from dpjax.models import Loading, Model, TransformerConfig, drop_inputs
from dpjax.models import Task as ModelTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# (trainable, record, frozen) -> scalar in nats; the record has no axis of records.
Loss = Callable[[PyTree, Any, PyTree], jax.Array]
# (trainable, frozen, batch) -> losses (b,) float32, and one number for each record (b,), or for
# each of its tokens (b, T), whose meaning is the task's.
Measure = Callable[[PyTree, PyTree, Any], tuple[jax.Array, jax.Array]]


class Batch(Protocol):
    """Encoded records of one static shape, as the loss of a task reads them.

    Attributes:
        input_ids: `(b, T)` int32.
        attention_mask: `(b, T)` bool.
        dropout_keys: `(b, 2)` uint32 while adapters are trained with dropout, else None.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    dropout_keys: jax.Array | None

    def _replace(self, **changes: Any) -> Batch: ...


@dataclasses.dataclass(frozen=True)
class HeldOutPrompts:
    """Prompts that the tuned model answers in the report.

    Attributes:
        prompts: what is asked, and what the records answer.
        encoded: their tokens.
        num_without: how many held-out conversations begin with the assistant's last message and
            leave nothing to answer.
    """

    prompts: list[Prompt]
    encoded: EncodedPrompts
    num_without: int


@dataclasses.dataclass(frozen=True)
class Evaluation(abc.ABC):
    """What a model makes of each record. Means are over the records whose loss is finite.

    Attributes:
        losses: `(N,)` float32 losses in nats, as the task measures them.
    """

    losses: np.ndarray

    accuracy: ClassVar[float | None] = None
    perplexity: ClassVar[float | None] = None
    reward_margin: ClassVar[float | None] = None
    span_f1: ClassVar[float | None] = None

    @property
    def finite_losses(self) -> np.ndarray:
        """`(M,)` the losses that are finite."""
        return self.losses[np.isfinite(self.losses)]

    @property
    def num_nonfinite(self) -> int:
        """How many losses are infinite or not numbers."""
        return len(self.losses) - len(self.finite_losses)

    @property
    def loss(self) -> float | None:
        """Mean loss in nats; None without a finite loss."""
        losses = self.finite_losses
        return float(np.mean(losses.astype(np.float64))) if len(losses) else None

    @property
    @abc.abstractmethod
    def quality(self) -> tuple[str, str]:
        """Name and value, in words, of what the task is measured by."""

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """Names and values, in words, of what else the task is measured by."""
        return ()

    @property
    def remark(self) -> str:
        """What a record without a finite loss counts as, beyond taking no part in the mean."""
        return ""


class Task(abc.ABC):
    """What a run asks its task.

    A new task is one file with a subclass, and one line in `registry`.

    Attributes:
        labels: the set of labels, in the order of the logits; empty without labels.
        needs_padding_token: whether the tokenizer must have one.
        evaluation_batch_size: how many records are evaluated at once.
        canary_kinds: what kinds of canaries it learns.
        makes_head: whether tuning starts a new head; else the model keeps the one it has.
        audit_scores: what the verdict of an audit may rest on, the first one for auto.
        loss_name: what the mean loss of held-out records is called in the report.
        texts_per_record: how many texts of a record are predicted token by token.
        compares_with_base: whether the loss reads the model without adapters too.
    """

    labels: tuple[str, ...] = ()
    needs_padding_token: ClassVar[bool] = True
    evaluation_batch_size: ClassVar[int] = 64
    canary_kinds: ClassVar[tuple[CanaryKindName, ...]]
    makes_head: ClassVar[bool] = True
    audit_scores: ClassVar[tuple[ScoreName, ...]]
    loss_name: ClassVar[str] = "Cross-entropy on held-out records"
    texts_per_record: ClassVar[int] = 0
    compares_with_base: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: FinetuneConfig, started_at: datetime.datetime) -> Task:
        """Makes the task of a run that was started at `started_at`, in local time."""

    @abc.abstractmethod
    def model_task(self, model: TransformerConfig) -> ModelTask:
        """Returns the task whose head a model gets; ValueError if it cannot serve this one."""

    def with_tokenizer(self, model: TransformerConfig, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Returns the task with what it looks up in the vocabulary."""
        del model, tokenizer
        return self

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what the task takes for public, for the privacy report."""
        return ()

    def with_config(self, config: FinetuneConfig) -> Task:
        """Returns the task with what "auto" in its options has come to."""
        del config
        return self

    @abc.abstractmethod
    def read(self, config: FinetuneConfig) -> tuple[RecordColumns, RecordColumns]:
        """Reads the training and the evaluation records."""

    def with_training_records(self, train: RecordColumns, held_out: RecordColumns) -> Task:
        """Returns the task with what it learns from the records, such as the set of labels."""
        del train, held_out
        return self

    @abc.abstractmethod
    def encode(
        self, records: RecordColumns, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> EncodedRecords:
        """Returns the records as arrays."""

    def with_encoded(self, train: EncodedRecords) -> Task:
        """Returns the task with what it learns from the training records as arrays."""
        del train
        return self

    def most_logits(self, max_length: int) -> int:
        """Returns at how many positions of a record a token is predicted, at most."""
        # Nothing follows the last token.
        return self.texts_per_record * max(1, max_length - 1)

    def prompts(
        self, config: FinetuneConfig, held_out: RecordColumns, tokenizer: PreTrainedTokenizerBase
    ) -> HeldOutPrompts | None:
        """Returns the held-out prompts that the report answers; None where there are none."""
        del config, held_out, tokenizer
        return None

    def auto_canary_kind(
        self, num_canaries: int, tokenizer: PreTrainedTokenizerBase, vocab_size: int
    ) -> CanaryKindName:
        """Returns the kind of canaries that a run gets if it asks for none: the first one."""
        del num_canaries, tokenizer, vocab_size
        return self.canary_kinds[0]

    @abc.abstractmethod
    def load(
        self, checkpoint: Path, config: FinetuneConfig, key: jax.Array, loading: Loading
    ) -> Model:
        """Loads the pretrained model, with a new head made from `key` where it needs one.

        `loading` has the formats of `config.compute`, and where each parameter goes.
        """

    @abc.abstractmethod
    def batch(self, records: Any) -> Batch:
        """Returns what the loss reads, with a leading axis of records."""

    @abc.abstractmethod
    def loss_fn(self, graphdef: Any) -> Loss:
        """Makes the loss of one record."""

    @abc.abstractmethod
    def measure_fn(self, graphdef: Any) -> Measure:
        """Makes the jitted function that evaluates a batch without gradients."""

    @abc.abstractmethod
    def evaluation(self, losses: np.ndarray, outcomes: np.ndarray, data: Any) -> Evaluation:
        """Puts together what `measure_fn` returned for all records, in their order."""

    @abc.abstractmethod
    def summary(self) -> str:
        """Says what the data has: its labels, for instance."""


def merge_for_record(graphdef: Any, trainable: PyTree, frozen: PyTree, record: Batch) -> Any:
    """Puts the model together for one record, with what this record drops."""
    model = nnx.merge(graphdef, trainable, frozen)
    if record.dropout_keys is not None:
        key = jax.random.wrap_key_data(record.dropout_keys, impl="threefry2x32")
        drop_inputs(model, key=key)
    return model
