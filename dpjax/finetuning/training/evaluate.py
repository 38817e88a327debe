"""Loss and accuracy of a model over records, without gradients."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dpjax.data import EncodedRecords, LanguageDataset, by_length, microbatches, trim_padding
from dpjax.finetuning.tasks.registry import CausalLanguage, LabelledBatch, LanguageBatch
from dpjax.models.text.losses import token_losses

PyTree = Any
_BATCH_SIZE = 64
_LANGUAGE_BATCH_SIZE = 16
# Bounds the logits held at once where nobody has asked for a number.
_VOCAB_CHUNK = 8192


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model makes of each record. Means are over the records whose loss is finite.

    Attributes:
        losses: `(N,)` float32 cross-entropy in nats; of a text, the mean over its tokens that
            count (0 if there is none).
        num_tokens: `(N,)` of texts, how many tokens count; None for labelled records.
        correct: `(N,)` bool of labelled records, whether the label predicted is right; None for
            texts. A prediction whose loss is not finite is not right.
    """

    losses: np.ndarray
    num_tokens: np.ndarray | None = None
    correct: np.ndarray | None = None

    @property
    def finite_losses(self) -> np.ndarray:
        """`(M,)` the losses that are finite."""
        return self.losses[np.isfinite(self.losses)]

    @property
    def num_nonfinite(self) -> int:
        """How many losses are infinite or not numbers."""
        return len(self.losses) - len(self.finite_losses)

    @property
    def accuracy(self) -> float | None:
        """Share of records whose label is predicted; None for texts."""
        return None if self.correct is None else float(np.mean(self.correct))

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy in nats: of records, or of all tokens in all texts; None of none."""
        losses = self.finite_losses.astype(np.float64)
        if not len(losses):
            return None
        if self.num_tokens is None:
            return float(np.mean(losses))
        tokens = self.num_tokens[np.isfinite(self.losses)]
        return float(np.sum(losses * tokens) / max(1, tokens.sum()))

    @property
    def perplexity(self) -> float | None:
        """exp(loss) per token of texts; None for labelled records, and without a loss."""
        if self.num_tokens is None or self.loss is None:
            return None
        return math.exp(min(self.loss, 700.0))


def evaluate(
    task: Any, graphdef: Any, trainable: PyTree, frozen: PyTree, data: EncodedRecords
) -> Evaluation:
    """Runs the model over all records, in batches of a few static shapes."""
    writes = isinstance(data, LanguageDataset)
    of_batch = _of_texts(task, graphdef) if writes else _of_labelled(graphdef)
    losses = np.empty(len(data), np.float32)
    second = np.empty(len(data), np.int32)
    ordered = by_length(data, np.arange(len(data)))
    size = min(_LANGUAGE_BATCH_SIZE if writes else _BATCH_SIZE, len(data))
    for rows, counts in microbatches(ordered, size):
        one = of_batch(trainable, frozen, task.batch(trim_padding(data.take(rows))))
        kept = rows[counts]
        losses[kept], second[kept] = (np.asarray(part)[counts] for part in one)
    if writes:
        return Evaluation(losses, num_tokens=second)
    return Evaluation(losses, correct=(second == data.labels) & np.isfinite(losses))


def _of_labelled(graphdef: Any) -> Any:
    """Losses and predicted labels of a batch."""

    @jax.jit
    def run(trainable: PyTree, frozen: PyTree, batch: LabelledBatch) -> tuple[jax.Array, jax.Array]:
        logits = nnx.merge(graphdef, trainable, frozen)(batch.input_ids, batch.attention_mask)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return losses, jnp.argmax(logits, axis=-1)

    return run


def _of_texts(task: CausalLanguage, graphdef: Any) -> Any:
    """Mean losses of the tokens that count, and their numbers, of a batch."""

    @jax.jit
    def run(trainable: PyTree, frozen: PyTree, batch: LanguageBatch) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, trainable, frozen)
        hidden = model.hidden_states(batch.input_ids, batch.attention_mask)[:, :-1]
        head, vocab_axis = model.head_weights()
        chunk = task.vocab_chunk or min(_VOCAB_CHUNK, model.config.vocab_size)

        def of_one(hidden: jax.Array, targets: jax.Array, counts: jax.Array) -> jax.Array:
            each = token_losses(
                hidden,
                head,
                targets,
                vocab_axis=vocab_axis,
                vocab_chunk=chunk,
                logit_softcap=model.config.logit_softcap,
            )
            return jnp.sum(jnp.where(counts, each, 0.0)) / jnp.maximum(jnp.sum(counts), 1)

        counts = batch.loss_mask[:, 1:]
        losses = jax.vmap(of_one)(hidden, batch.input_ids[:, 1:], counts)
        return losses, jnp.sum(counts, axis=-1)

    return run
