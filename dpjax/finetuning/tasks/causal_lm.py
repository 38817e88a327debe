"""Texts, or the answers in them, that are written token by token."""

from __future__ import annotations

import dataclasses
import datetime
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.audit import find_unused_tokens
from dpjax.basics.typing import PyTree
from dpjax.data import (
    EncodedRecords,
    LanguageDataset,
    LanguageRecords,
    Texts,
    encode_language,
    read_language_records,
)
from dpjax.finetuning.config import CanaryKindName, FinetuneConfig, ScoreName
from dpjax.finetuning.tasks.base import (
    Evaluation,
    HeldOutPrompts,
    Loss,
    Measure,
    merge_for_record,
)
from dpjax.finetuning.tasks.language import EVALUATED_CHUNK, LanguageTask, Targets
from dpjax.models import causal_lm_loss, token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# With a greater share of all positions little would be saved.
_PICKED_SHARE = 2 / 3


class LanguageBatch(NamedTuple):
    """Encoded texts of one static shape: `(b, T)` int32, and twice `(b, T)` bool.

    `targets` are there where the logits of other tokens are left out; then the loss reads them
    instead of `loss_mask`. `dropout_keys`, `(b, 2)` uint32, is there while adapters are trained
    with dropout.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    loss_mask: jax.Array
    targets: Targets | None = None
    dropout_keys: jax.Array | None = None

    def predicted(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns hidden states of one record, the token that each predicts, and which count."""
        if self.targets is None:
            # Nothing follows the last token.
            return hidden[:-1], self.input_ids[1:], self.loss_mask[1:]
        return hidden[self.targets.places], self.targets.ids, self.targets.counts


@dataclasses.dataclass(frozen=True)
class LanguageEvaluation(Evaluation):
    """What a language model makes of each text.

    The loss of a text is the mean over its tokens that count, 0 if there is none.

    Attributes:
        num_tokens: `(N,)` int32, how many tokens of each text count.
    """

    num_tokens: np.ndarray

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy in nats of all tokens in all texts; None without a finite loss."""
        losses = self.finite_losses.astype(np.float64)
        if not len(losses):
            return None
        tokens = self.num_tokens[np.isfinite(self.losses)]
        return float(np.sum(losses * tokens) / max(1, tokens.sum()))

    @property
    def perplexity(self) -> float | None:
        """exp(loss) per token; None without a loss."""
        return None if self.loss is None else math.exp(min(self.loss, 700.0))

    @property
    def quality(self) -> tuple[str, str]:
        """Name and value of the perplexity."""
        value = "not known" if self.perplexity is None else f"{self.perplexity:.3f}"
        return "Perplexity of held-out tokens", f"{value}, {len(self.losses)} texts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLanguage(LanguageTask):
    """Texts, or the answers in them, are to be written token by token.

    Attributes:
        reduction: whether the loss of a record is the mean or the sum over its tokens that count.
        max_targets: the most tokens of a training record that count, where they are so few that
            the logits of other tokens are left out; None where all are computed.
    """

    reduction: Literal["mean", "sum"] = "mean"
    max_targets: int | None = None

    evaluation_batch_size: ClassVar[int] = 16
    texts_per_record: ClassVar[int] = 1
    canary_kinds: ClassVar[tuple[CanaryKindName, ...]] = (
        "new-token",
        "random-tokens",
        "high-temperature",
    )
    audit_scores: ClassVar[tuple[ScoreName, ...]] = (
        "ratio",
        "loss",
        "min_k",
        "min_k_plus",
        "zlib",
        "ez",
        "wbc",
    )

    @classmethod
    def from_config(cls, config: FinetuneConfig, started_at: datetime.datetime) -> CausalLanguage:
        """Makes the task."""
        return cls(
            reduction=config.training.loss_reduction,
            vocab_chunk=config.compute.vocab_chunk,
            separator=config.separator,
            today=started_at,
        )

    def read(self, config: FinetuneConfig) -> tuple[LanguageRecords, LanguageRecords]:
        """Reads texts, prompts with completions, or conversations."""
        train = read_language_records(config.train_data)
        held_out = read_language_records(config.eval_data)
        if type(train) is not type(held_out):
            raise ValueError(
                f"train_data holds {type(train).__name__.lower()}, eval_data "
                f"{type(held_out).__name__.lower()}; both must have the same columns"
            )
        return train, held_out

    def encode(
        self, records: LanguageRecords, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> LanguageDataset:
        """Returns the records as arrays, with the tokens that count."""
        return encode_language(
            records, tokenizer, max_length, separator=self.separator, today=self.today
        )

    def with_encoded(self, train: EncodedRecords) -> CausalLanguage:
        """Returns the task with `max_targets`, if it is worth while to leave logits out."""
        assert isinstance(train, LanguageDataset)
        most = int(train.loss_mask.sum(axis=1).max())
        is_worth_it = most <= _PICKED_SHARE * (train.input_ids.shape[1] - 1)
        return dataclasses.replace(self, max_targets=most if is_worth_it else None)

    def most_logits(self, max_length: int) -> int:
        """Returns at how many positions of a record a token is predicted, at most."""
        positions = super().most_logits(max_length)
        return positions if self.max_targets is None else min(positions, self.max_targets)

    def prompts(
        self, config: FinetuneConfig, held_out: LanguageRecords, tokenizer: PreTrainedTokenizerBase
    ) -> HeldOutPrompts | None:
        """Returns the first held-out prompts; texts have none. Errors as for `first_prompts`."""
        if isinstance(held_out, Texts):
            return None
        return self.first_prompts(config, held_out, tokenizer)

    def auto_canary_kind(
        self, num_canaries: int, tokenizer: PreTrainedTokenizerBase, vocab_size: int
    ) -> CanaryKindName:
        """Returns new-token, or random-tokens where too few tokens are unused."""
        has_enough = len(find_unused_tokens(tokenizer, vocab_size)) >= num_canaries
        return "new-token" if has_enough else "random-tokens"

    def batch(self, records: LanguageDataset) -> LanguageBatch:
        """Returns ids, mask and the tokens that count."""
        return LanguageBatch(
            records.input_ids,
            records.attention_mask,
            records.loss_mask,
            self._targets(records.input_ids, records.loss_mask),
        )

    def _targets(self, input_ids: np.ndarray, loss_mask: np.ndarray) -> Targets | None:
        most = self.max_targets
        # A held-out record, or one that was added, may have more than room was made for.
        if most is None or int(loss_mask.sum(axis=1).max(initial=0)) > most:
            return None
        return Targets.pick(input_ids, loss_mask, most)

    def loss_fn(self, graphdef: Any) -> Loss:
        """Makes the cross-entropy of the tokens that count, their sum or mean, in nats."""
        vocab_chunk = self.resolved_chunk()

        def loss(trainable: PyTree, record: LanguageBatch, frozen: PyTree) -> jax.Array:
            model = merge_for_record(graphdef, trainable, frozen, record)
            hidden, targets, counts = record.predicted(
                model.hidden_states(record.input_ids, record.attention_mask)
            )
            head, vocab_axis = model.head_weights()
            return causal_lm_loss(
                hidden,
                head,
                vocab_axis=vocab_axis,
                targets=targets,
                loss_mask=counts,
                reduction=self.reduction,
                vocab_chunk=vocab_chunk,
                logit_softcap=model.config.logit_softcap,
                addition=model.head_addition(hidden),
            )

        return loss

    def measure_fn(self, graphdef: Any) -> Measure:
        """Makes the function to mean losses of the tokens that count, and their numbers."""
        vocab_chunk = self.resolved_chunk()

        @jax.jit
        def measure(
            trainable: PyTree, frozen: PyTree, batch: LanguageBatch
        ) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, trainable, frozen)
            hidden = model.hidden_states(batch.input_ids, batch.attention_mask)
            head, vocab_axis = model.head_weights()
            chunk = vocab_chunk or min(EVALUATED_CHUNK, model.config.vocab_size)

            def mean_loss(hidden: jax.Array, record: LanguageBatch) -> tuple[jax.Array, jax.Array]:
                hidden, targets, counts = record.predicted(hidden)
                each = token_losses(
                    hidden,
                    head,
                    targets,
                    vocab_axis=vocab_axis,
                    vocab_chunk=chunk,
                    logit_softcap=model.config.logit_softcap,
                    addition=model.head_addition(hidden),
                )
                number = jnp.sum(counts)
                total = jnp.sum(jnp.where(counts, each, 0.0))
                return total / jnp.maximum(number, 1), number

            return jax.vmap(mean_loss)(hidden, batch)

        return measure

    def evaluation(
        self, losses: np.ndarray, outcomes: np.ndarray, data: LanguageDataset
    ) -> LanguageEvaluation:
        """Keeps how many tokens of each text count."""
        del data
        return LanguageEvaluation(losses, outcomes)

    def summary(self) -> str:
        """Says what the loss is."""
        return f"the {self.reduction} of the loss over the tokens that count"
