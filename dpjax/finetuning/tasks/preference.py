"""Prompts with two answers, of which the better one is to become more probable."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.basics.typing import PyTree
from dpjax.data import PreferenceDataset, Preferences, encode_preferences, read_preferences
from dpjax.finetuning.config import CanaryKindName, FinetuneConfig, ScoreName
from dpjax.finetuning.tasks.base import Evaluation, HeldOutPrompts, Loss, Measure, merge_for_record
from dpjax.finetuning.tasks.language import EVALUATED_CHUNK, LanguageTask
from dpjax.models import CausalLM, base_model, preference_loss, sequence_log_probs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PreferenceBatch(NamedTuple):
    """Encoded pairs of one static shape: twice `(b, T)` int32, and four times `(b, T)` bool.

    The first three are of the prompt with the chosen answer. `dropout_keys`, `(b, 2)` uint32, is
    there while adapters are trained with dropout.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    loss_mask: jax.Array
    rejected_ids: jax.Array
    rejected_mask: jax.Array
    rejected_loss_mask: jax.Array
    dropout_keys: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class PreferenceEvaluation(Evaluation):
    """What a tuned model makes of each pair.

    Attributes:
        margins: `(N,)` float32, how much higher the reward of the chosen answer is than that of the
            rejected one.
    """

    margins: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of pairs whose chosen answer has the higher reward."""
        return float(np.mean(self.margins > 0))

    @property
    def reward_margin(self) -> float | None:
        """Mean of the margins that are finite; None without one."""
        finite = self.margins[np.isfinite(self.margins)].astype(np.float64)
        return float(np.mean(finite)) if len(finite) else None

    @property
    def quality(self) -> tuple[str, str]:
        """Name and value of the accuracy."""
        return "Accuracy on held-out pairs", f"{self.accuracy:.4f} of {len(self.losses)}"

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """The mean margin."""
        if self.reward_margin is None:
            return ()
        return (("Mean reward margin on held-out pairs", f"{self.reward_margin:.4f}"),)

    @property
    def remark(self) -> str:
        """Says that such a pair is not right."""
        return ", and count as wrong"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceTuning(LanguageTask):
    """Of two answers to a prompt the chosen one is to become more probable than the rejected one.

    The reference is the model without its adapters. What it makes of a record is computed in the
    loss; nothing trained enters, so that a run may compute it once.

    Attributes:
        beta: as for `preference_loss`.
        label_smoothing: likewise.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    evaluation_batch_size: ClassVar[int] = 8
    canary_kinds: ClassVar[tuple[CanaryKindName, ...]] = ("random-pair", "swapped-pair")
    audit_scores: ClassVar[tuple[ScoreName, ...]] = ("loss",)
    loss_name: ClassVar[str] = "Loss on held-out pairs"
    texts_per_record: ClassVar[int] = 2
    compares_with_base: ClassVar[bool] = True

    @classmethod
    def from_config(cls, config: FinetuneConfig, started_at: datetime.datetime) -> PreferenceTuning:
        """Makes the task."""
        return cls(
            vocab_chunk=config.compute.vocab_chunk,
            separator=config.separator,
            today=started_at,
            beta=config.preference.beta,
            label_smoothing=config.preference.label_smoothing,
        )

    def read(self, config: FinetuneConfig) -> tuple[Preferences, Preferences]:
        """Reads prompts with two answers."""
        return read_preferences(config.train_data), read_preferences(config.eval_data)

    def encode(
        self, records: Preferences, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> PreferenceDataset:
        """Returns the records as arrays, with the tokens of the answers."""
        return encode_preferences(
            records, tokenizer, max_length, separator=self.separator, today=self.today
        )

    def prompts(
        self, config: FinetuneConfig, held_out: Preferences, tokenizer: PreTrainedTokenizerBase
    ) -> HeldOutPrompts | None:
        """Returns the first held-out prompts, with the chosen answers."""
        return self.first_prompts(config, held_out.answers("chosen"), tokenizer)

    def batch(self, records: PreferenceDataset) -> PreferenceBatch:
        """Returns ids, masks and the tokens that count of both texts."""
        return PreferenceBatch(
            records.input_ids,
            records.attention_mask,
            records.loss_mask,
            records.rejected_ids,
            records.rejected_mask,
            records.rejected_loss_mask,
        )

    def loss_fn(self, graphdef: Any) -> Loss:
        """Makes the loss of Direct Preference Optimization, in nats."""
        vocab_chunk = self.resolved_chunk()

        def loss(trainable: PyTree, record: PreferenceBatch, frozen: PyTree) -> jax.Array:
            model = merge_for_record(graphdef, trainable, frozen, record)
            return self._loss_and_margin(model, record, vocab_chunk)[0]

        return loss

    def measure_fn(self, graphdef: Any) -> Measure:
        """Makes the function to losses and reward margins of a batch."""
        vocab_chunk = self.resolved_chunk()

        @jax.jit
        def measure(
            trainable: PyTree, frozen: PyTree, batch: PreferenceBatch
        ) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, trainable, frozen)
            chunk = vocab_chunk or min(EVALUATED_CHUNK, model.config.vocab_size)

            def of_record(record: PreferenceBatch) -> tuple[jax.Array, jax.Array]:
                return self._loss_and_margin(model, record, chunk)

            return jax.vmap(of_record)(batch)

        return measure

    def evaluation(
        self, losses: np.ndarray, outcomes: np.ndarray, data: PreferenceDataset
    ) -> PreferenceEvaluation:
        """Keeps the margins."""
        del data
        return PreferenceEvaluation(losses, outcomes)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Says what a record is."""
        return (
            "A record is a pair: a prompt with the answer that was chosen and the one that was "
            "rejected. Both answers and their order are clipped and protected as one.",
        )

    def summary(self) -> str:
        """Says what the loss is."""
        smoothing = f", smoothing {self.label_smoothing:g}" if self.label_smoothing else ""
        return f"pairs of answers, with beta {self.beta:g}{smoothing}"

    def _loss_and_margin(
        self, model: CausalLM, record: PreferenceBatch, vocab_chunk: int | None
    ) -> tuple[jax.Array, jax.Array]:
        """Of one record, for a model with adapters."""
        # Both texts in one pass: the gradient of a parameter is one sum over all their tokens.
        texts = (
            jnp.stack([record.input_ids, record.rejected_ids]),
            jnp.stack([record.attention_mask, record.rejected_mask]),
            jnp.stack([record.loss_mask, record.rejected_loss_mask]),
        )
        tuned, reference = (
            sequence_log_probs(each, *texts, vocab_chunk=vocab_chunk)
            for each in (model, base_model(model))
        )
        return preference_loss(
            tuned - reference, beta=self.beta, label_smoothing=self.label_smoothing
        )
