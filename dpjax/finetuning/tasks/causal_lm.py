"""Texts, or the answers in them, that are written token by token."""

from __future__ import annotations

import dataclasses
import datetime
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.audit import find_unused_tokens
from dpjax.data import (
    LanguageDataset,
    LanguageRecords,
    Texts,
    encode_language,
    encode_prompts,
    find_prompts,
    read_language_records,
)
from dpjax.finetuning.config import CanaryKindName, FinetuneConfig, ScoreName
from dpjax.finetuning.tasks.base import (
    Evaluation,
    HeldOutPrompts,
    Loss,
    Measure,
    Task,
    merge_for_record,
)
from dpjax.models import (
    Loading,
    Model,
    TransformerConfig,
    causal_lm_loss,
    load_causal_lm,
    token_losses,
)
from dpjax.models import Task as ModelTask
from dpjax.typing import PyTree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Bounds the logits held at once where nobody has asked for a number.
_VOCAB_CHUNK = 8192


class LanguageBatch(NamedTuple):
    """Encoded texts of one static shape: `(b, T)` int32, and twice `(b, T)` bool.

    `dropout_keys`, `(b, 2)` uint32, is there while adapters are trained with dropout.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    loss_mask: jax.Array
    dropout_keys: jax.Array | None = None


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


@dataclasses.dataclass(frozen=True)
class CausalLanguage(Task):
    """Texts, or the answers in them, are to be written token by token.

    Attributes:
        reduction: whether the loss of a record is the mean or the sum over its tokens that count.
        vocab_chunk: how many tokens' logits are held at once; None for all. There is no loss while
            it is "auto".
        separator: what stands between a prompt and its completion.
        today: the date and time that chat templates are given.
    """

    reduction: Literal["mean", "sum"] = "mean"
    vocab_chunk: int | Literal["auto"] | None = "auto"
    separator: str = ""
    today: datetime.datetime | None = None

    needs_padding_token: ClassVar[bool] = False
    evaluation_batch_size: ClassVar[int] = 16
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

    def with_config(self, config: FinetuneConfig) -> CausalLanguage:
        """Returns the task with the vocab_chunk of the configuration."""
        return dataclasses.replace(self, vocab_chunk=config.compute.vocab_chunk)

    def model_task(self, model: TransformerConfig) -> ModelTask:
        """Returns the task of this name."""
        del model
        return "causal_lm"

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

    def prompts(
        self, config: FinetuneConfig, held_out: LanguageRecords, tokenizer: PreTrainedTokenizerBase
    ) -> HeldOutPrompts | None:
        """Returns the first held-out prompts; texts have none.

        Raises:
            ValueError: whatever could be wrong with them is found before training.
        """
        num_prompts = config.generation.num_prompts
        if not num_prompts or isinstance(held_out, Texts):
            return None
        prompts = find_prompts(held_out)
        encoded = encode_prompts(
            prompts[:num_prompts],
            tokenizer,
            config.training.max_length,
            separator=self.separator,
            today=self.today,
        )
        return HeldOutPrompts(prompts[:num_prompts], encoded, len(held_out) - len(prompts))

    def auto_canary_kind(
        self, num_canaries: int, tokenizer: PreTrainedTokenizerBase, vocab_size: int
    ) -> CanaryKindName:
        """Returns new-token, or random-tokens where too few tokens are unused."""
        has_enough = len(find_unused_tokens(tokenizer, vocab_size)) >= num_canaries
        return "new-token" if has_enough else "random-tokens"

    def load(
        self, checkpoint: Path, config: FinetuneConfig, key: jax.Array, loading: Loading
    ) -> Model:
        """Loads the checkpoint as a language model; nothing in it is new."""
        del config, key
        return load_causal_lm(checkpoint, loading=loading)

    def batch(self, records: LanguageDataset) -> LanguageBatch:
        """Returns ids, mask and the tokens that count."""
        return LanguageBatch(records.input_ids, records.attention_mask, records.loss_mask)

    def loss_fn(self, graphdef: Any) -> Loss:
        """Makes the cross-entropy of the tokens that count, their sum or mean, in nats."""
        vocab_chunk = self._resolved_chunk()

        def loss(trainable: PyTree, record: LanguageBatch, frozen: PyTree) -> jax.Array:
            model = merge_for_record(graphdef, trainable, frozen, record)
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
                vocab_chunk=vocab_chunk,
                logit_softcap=model.config.logit_softcap,
                addition=model.head_addition(hidden),
            )

        return loss

    def measure_fn(self, graphdef: Any) -> Measure:
        """Makes the function to mean losses of the tokens that count, and their numbers."""
        vocab_chunk = self._resolved_chunk()

        @jax.jit
        def measure(
            trainable: PyTree, frozen: PyTree, batch: LanguageBatch
        ) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, trainable, frozen)
            hidden = model.hidden_states(batch.input_ids, batch.attention_mask)[:, :-1]
            head, vocab_axis = model.head_weights()
            chunk = vocab_chunk or min(_VOCAB_CHUNK, model.config.vocab_size)

            def mean_loss(hidden: jax.Array, targets: jax.Array, counts: jax.Array) -> jax.Array:
                each = token_losses(
                    hidden,
                    head,
                    targets,
                    vocab_axis=vocab_axis,
                    vocab_chunk=chunk,
                    logit_softcap=model.config.logit_softcap,
                    addition=model.head_addition(hidden),
                )
                return jnp.sum(jnp.where(counts, each, 0.0)) / jnp.maximum(jnp.sum(counts), 1)

            counts = batch.loss_mask[:, 1:]
            losses = jax.vmap(mean_loss)(hidden, batch.input_ids[:, 1:], counts)
            return losses, jnp.sum(counts, axis=-1)

        return measure

    def evaluation(
        self, losses: np.ndarray, outcomes: np.ndarray, data: LanguageDataset
    ) -> LanguageEvaluation:
        """Keeps how many tokens of each text count."""
        del data
        return LanguageEvaluation(losses, outcomes)

    def _resolved_chunk(self) -> int | None:
        if isinstance(self.vocab_chunk, str):
            raise ValueError(
                f"compute.vocab_chunk={self.vocab_chunk} must be resolved before there is a loss"
            )
        return self.vocab_chunk

    def summary(self) -> str:
        """Says what the loss is."""
        return f"the {self.reduction} of the loss over the tokens that count"
