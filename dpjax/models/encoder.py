"""A bidirectional transformer encoder with a sequence classification head, in Flax NNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.config import EncoderConfig
from dpjax.models.layers import ACTIVATIONS, attend


def _linear(config: EncoderConfig, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)


def _embed(config: EncoderConfig, rows: int, rngs: nnx.Rngs) -> nnx.Embed:
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Embed(rows, config.hidden_size, embedding_init=init, rngs=rngs)


def _layer_norm(config: EncoderConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance E[x²] − E[x]² cancels catastrophically in float32.
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs
    )


class Embeddings(nnx.Module):
    """Normalised sum of word, token type (always type 0) and learned position embeddings."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.max_positions = config.max_positions
        self.word_embeddings = _embed(config, config.vocab_size, rngs)
        self.position_embeddings = _embed(config, config.max_positions, rngs)
        self.token_type_embeddings = _embed(config, config.type_vocab_size, rngs)
        self.LayerNorm = _layer_norm(config, rngs)

    def __call__(self, input_ids: jax.Array) -> jax.Array:
        """`(..., T)` int32 to `(..., T, hidden_size)`; ValueError if T exceeds the positions."""
        length = input_ids.shape[-1]
        if length > self.max_positions:
            raise ValueError(
                f"a sequence of {length} tokens is longer than the {self.max_positions} positions "
                "of the model; truncate it (max_length)"
            )
        words = self.word_embeddings(input_ids)
        types = self.token_type_embeddings(jnp.zeros_like(input_ids))
        positions = self.position_embeddings(jnp.arange(length))
        return self.LayerNorm(words + types + jnp.broadcast_to(positions, words.shape))


class SelfAttention(nnx.Module):
    """Multi-head self-attention with its residual connection and LayerNorm after it."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.query = _linear(config, size, size, rngs)
        self.key = _linear(config, size, size, rngs)
        self.value = _linear(config, size, size, rngs)
        self.dense = _linear(config, size, size, rngs)
        self.LayerNorm = _layer_norm(config, rngs)

    def __call__(
        self, hidden: jax.Array, attention_mask: jax.Array, *, first_only: bool = False
    ) -> jax.Array:
        """`(..., T, hidden_size)` with keys masked by `(..., T)` bool to the same shape.

        With `first_only` only the first token is computed, `(..., 1, hidden_size)`.
        """
        asking = hidden[..., :1, :] if first_only else hidden
        key, value = self._heads(self.key(hidden)), self._heads(self.value(hidden))
        context = attend(self._heads(self.query(asking)), key, value, attention_mask)
        return self.LayerNorm(self.dense(context.reshape(asking.shape)) + asking)

    def _heads(self, projected: jax.Array) -> jax.Array:
        size = projected.shape[-1] // self.num_heads
        return projected.reshape(*projected.shape[:-1], self.num_heads, size)


class EncoderLayer(nnx.Module):
    """Self-attention, then a two-layer perceptron; each normalised after its residual."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.attention = SelfAttention(config, rngs=rngs)
        self.intermediate = _linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.output = _linear(config, config.intermediate_size, config.hidden_size, rngs)
        self.LayerNorm = _layer_norm(config, rngs)

    def __call__(
        self, hidden: jax.Array, attention_mask: jax.Array, *, first_only: bool = False
    ) -> jax.Array:
        """Shapes as in `SelfAttention`."""
        hidden = self.attention(hidden, attention_mask, first_only=first_only)
        inner = ACTIVATIONS[self.activation](self.intermediate(hidden))
        return self.LayerNorm(self.output(inner) + hidden)


class Encoder(nnx.Module):
    """Embeddings, a stack of layers and the dense layer of the pooler (Devlin et al. 2019)."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([EncoderLayer(config, rngs=rngs) for _ in range(config.num_layers)])
        self.pooler = _linear(config, config.hidden_size, config.hidden_size, rngs)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Hidden states `(..., T, hidden_size)` of the last layer."""
        hidden = self.embeddings(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return hidden

    def pool(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Summary `(..., hidden_size)` of a sequence, read from its first token.

        Of the last layer nothing but that token is computed.
        """
        *layers, last = self.layers
        hidden = self.embeddings(input_ids)
        for layer in layers:
            hidden = layer(hidden, attention_mask)
        first = last(hidden, attention_mask, first_only=True)
        return jnp.tanh(self.pooler(first[..., 0, :]))


class SequenceClassifier(nnx.Module):
    """An encoder with a linear classifier on the pooled first token.

    Deterministic: there is no dropout, in training neither, and the module holds no random state.
    Token types are all 0. Every parameter is float32.
    """

    def __init__(self, config: EncoderConfig, *, num_labels: int, rngs: nnx.Rngs):
        self.config = config
        self.num_labels = num_labels
        self.encoder = Encoder(config, rngs=rngs)
        self.classifier = _linear(config, config.hidden_size, num_labels, rngs)

    def hidden_states(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Hidden states of the last layer.

        Args:
            input_ids: `(..., T)` int32, any number of leading axes, also none.
            attention_mask: `(..., T)` bool, true for tokens, false for padding on either side.

        Returns:
            `(..., T, hidden_size)` float32; meaningless at padding positions.

        Raises:
            ValueError: if T exceeds the positions of the model.
        """
        return self.encoder(input_ids, attention_mask)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Logits `(..., num_labels)` float32; arguments and errors as in `hidden_states`."""
        return self.classifier(self.encoder.pool(input_ids, attention_mask))
