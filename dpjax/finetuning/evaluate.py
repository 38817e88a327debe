"""Loss and accuracy of a model over records, without gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dpjax.data import TextDataset, by_length, microbatches, trim_padding

PyTree = Any
_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Per record: cross-entropy `(N,)` float32 in nats, predicted label `(N,)`, and whether it is
    right `(N,)` bool."""

    losses: np.ndarray
    predictions: np.ndarray
    correct: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of records whose label is predicted."""
        return float(np.mean(self.correct))

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return float(np.mean(self.losses))


def evaluate(graphdef: Any, trainable: PyTree, frozen: PyTree, data: TextDataset) -> Evaluation:
    """Runs the model over all records, in batches of a few static shapes."""

    @jax.jit
    def forward(
        trainable: PyTree, frozen: PyTree, input_ids: jax.Array, mask: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logits = nnx.merge(graphdef, trainable, frozen)(input_ids, mask)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses, jnp.argmax(logits, axis=-1)

    losses = np.empty(len(data), np.float32)
    predictions = np.empty(len(data), np.int32)
    ordered = by_length(data, np.arange(len(data)))
    for rows, counts in microbatches(ordered, min(_BATCH_SIZE, len(data))):
        piece = trim_padding(data.take(rows))
        one = forward(trainable, frozen, piece.input_ids, piece.attention_mask, piece.labels)
        kept = rows[counts]
        losses[kept], predictions[kept] = (np.asarray(part)[counts] for part in one)
    return Evaluation(losses, predictions, predictions == data.labels)
