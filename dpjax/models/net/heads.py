"""Models: a transformer with a head for one task.

The attribute `lora` of a model holds the options of its adapters, or None if it has none.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.basics.lora_config import LoraConfig
from dpjax.models.config import TransformerConfig
from dpjax.models.families import Task
from dpjax.models.net.layer_features import LayerFeatures, last_token
from dpjax.models.net.layers import ACTIVATIONS, Addition, Linear, Norm
from dpjax.models.net.transformer import Transformer


def _linear(config: TransformerConfig, outputs: int, bias: bool, rngs: nnx.Rngs) -> Linear:
    stddev = config.initializer_range
    return Linear(config.hidden_size, outputs, bias=bias, stddev=stddev, rngs=rngs)


def _products(hidden: jax.Array, weights: jax.Array, vocab_axis: Literal[0, 1]) -> jax.Array:
    """Of hidden states with rows of the vocabulary, added up in float32."""
    equation = "...d,vd->...v" if vocab_axis == 0 else "...d,dv->...v"
    return jnp.einsum(
        equation, hidden, weights.astype(hidden.dtype), preferred_element_type=jnp.float32
    )


class _Headed(nnx.Module):
    """A transformer, to which a subclass adds its head."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.lora: LoraConfig | None = None
        self.transformer = Transformer(config, rngs=rngs)

    def hidden_states(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Hidden states `(..., T, hidden_size)` of the last layer; as in `Transformer`."""
        return self.transformer(input_ids, attention_mask)


class CausalLM(_Headed):
    """A decoder that predicts the next token. A tied head is the token embedding itself.

    Raises:
        ValueError: for an encoder, which sees the tokens it would predict.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> model(jnp.array([[3, 1, 2]]), jnp.ones((1, 3), bool)).shape
        (1, 3, 50257)
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        if not config.causal:
            raise ValueError(
                f"a {config.model_type} model sees the tokens on both sides: it has no causal head"
            )
        super().__init__(config, rngs=rngs)
        if not config.tied_head:
            self.lm_head = _linear(config, config.vocab_size, False, rngs)

    def hidden_states(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Hidden states `(..., T, hidden_size)` that the head reads; as in `Transformer`."""
        return self.scaled(super().hidden_states(input_ids, attention_mask))

    def scaled(self, hidden: jax.Array) -> jax.Array:
        """Hidden states of the transformer as the head reads them: `logit_scale` times.

        So whoever multiplies them with `head_weights` need not know of it.
        """
        scale = self.config.logit_scale
        return hidden if scale == 1 else scale * hidden

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits `(..., vocab_size)` float32 of hidden states `(..., hidden_size)`.

        Added up in float32 whatever the dtype: rounded to bfloat16, the largest would often tie.
        """
        logits, addition = _products(hidden, *self.head_weights()), self.head_addition(hidden)
        if addition is not None:
            logits = logits + _products(*addition, 0)
        return self._capped(logits)

    def word_logits(self, hidden: jax.Array, rows: jax.Array) -> jax.Array:
        """Logits `(..., R)` float32 of the tokens `rows`, `(R,)` int32, alone."""
        weights, vocab_axis = self.head_weights()
        logits = _products(hidden, jnp.take(weights, rows, axis=vocab_axis), vocab_axis)
        addition = self.head_addition(hidden)
        if addition is not None:
            numbers, table = addition
            logits = logits + _products(numbers, jnp.take(table, rows, axis=0), 0)
        return self._capped(logits)

    def _capped(self, logits: jax.Array) -> jax.Array:
        cap = self.config.logit_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def head_weights(self) -> tuple[jax.Array, Literal[0, 1]]:
        """The weights of the head and which of their axes is the vocabulary.

        `(vocab_size, hidden_size)` and 0 of a tied head; `(hidden_size, vocab_size)` and 1 of one
        of its own.
        """
        if self.config.tied_head:
            return self.transformer.embed_tokens.embedding[...], 0
        return self.lm_head.kernel[...], 1

    def head_addition(self, hidden: jax.Array) -> Addition | None:
        """What an adapter on the head adds to logits, for hidden states `(..., hidden_size)`."""
        head = self.transformer.embed_tokens if self.config.tied_head else self.lm_head
        return head.addition(hidden)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Logits `(..., T, vocab_size)` float32 of the token after each; as in `Transformer`."""
        return self.logits(self.hidden_states(input_ids, attention_mask))


class MaskedLM(_Headed):
    """An encoder that fills in masked tokens. A tied decoder is the token embedding itself.

    Logits are the products of rows of the vocabulary with a hidden state that went through a dense
    layer (`transform`), an activation and a norm (`transform_norm`), plus `vocab_bias`.

    Raises:
        ValueError: for a decoder, or a family without this head.

    Example:
        >>> from dpjax.models import MaskedLM, parse_config
        >>> from transformers import BertConfig
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> config = parse_config(BertConfig(vocab_size=9, hidden_size=8, **sizes).to_dict())
        >>> model = MaskedLM(config, rngs=nnx.Rngs(0))
        >>> model(jnp.array([[3, 1, 2]]), jnp.ones((1, 3), bool)).shape
        (1, 3, 9)
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        if config.mask_head_activation is None:
            raise ValueError(f"a {config.model_type} model has no head for masked tokens")
        super().__init__(config, rngs=rngs)
        self.transform = _linear(config, config.hidden_size, True, rngs)
        self.transform_norm = Norm(config.hidden_size, config)
        self.vocab_bias = nnx.Param(jnp.zeros(config.vocab_size))
        if not config.tied_head:
            self.decoder = _linear(config, config.vocab_size, False, rngs)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits `(..., vocab_size)` float32 of hidden states `(..., hidden_size)`."""
        return self._decoded(hidden, *self.head_weights(), self.vocab_bias[...])

    def word_logits(self, hidden: jax.Array, rows: jax.Array) -> jax.Array:
        """Logits `(..., R)` float32 of the tokens `rows`, `(R,)` int32, alone."""
        weights, vocab_axis = self.head_weights()
        chosen = jnp.take(weights, rows, axis=vocab_axis)
        return self._decoded(hidden, chosen, vocab_axis, self.vocab_bias[...][rows])

    def head_weights(self) -> tuple[jax.Array, Literal[0, 1]]:
        """The weights of the decoder and which of their axes is the vocabulary, as of CausalLM."""
        if self.config.tied_head:
            return self.transformer.embed_tokens.embedding[...], 0
        return self.decoder.kernel[...], 1

    def _decoded(
        self, hidden: jax.Array, weights: jax.Array, vocab_axis: Literal[0, 1], bias: jax.Array
    ) -> jax.Array:
        activation = ACTIVATIONS[self.config.mask_head_activation]
        transformed = self.transform_norm(activation(self.transform(hidden)))
        logits = _products(transformed, weights, vocab_axis)
        return logits + jnp.broadcast_to(bias.astype(jnp.float32), logits.shape)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Logits `(..., T, vocab_size)` float32 of the token at each place; as in `Transformer`."""
        return self.logits(self.hidden_states(input_ids, attention_mask))


class SequenceClassifier(_Headed):
    """A transformer with a linear classifier of the whole text.

    An encoder's text is read from its first token, through a dense layer where the family has one
    (`pooler`); a decoder's from its last token. With `feature_layers` it is read from several
    layers (`LayerFeatures`). Parameters of the classifier: `classifier`.

    Example:
        >>> from dpjax.models import SequenceClassifier, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = SequenceClassifier(config, num_labels=2, rngs=nnx.Rngs(0))
        >>> model(jnp.array([[3, 1, 2]]), jnp.ones((1, 3), bool)).shape
        (1, 2)
    """

    def __init__(self, config: TransformerConfig, *, num_labels: int, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.num_labels = num_labels
        if config.feature_layers:
            self.features = LayerFeatures(config, len(config.feature_layers))
        elif config.pooler_activation is not None:
            self.pooler = _linear(config, config.hidden_size, True, rngs)
        # A bias for encoders, none for decoders, as in transformers; features bring a constant.
        has_bias = not config.causal and not config.feature_layers
        inputs, stddev = config.num_features, config.initializer_range
        self.classifier = Linear(inputs, num_labels, bias=has_bias, stddev=stddev, rngs=rngs)

    def pool(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Summary `(..., config.num_features)` of a text; arguments as in `Transformer`."""
        if self.config.feature_layers:
            return self.features(self.layer_states(input_ids, attention_mask), attention_mask)
        if self.config.causal:
            hidden = self.transformer(input_ids, attention_mask)
            last = jnp.argmax(last_token(attention_mask), axis=-1)
            return jnp.take_along_axis(hidden, last[..., None, None], axis=-2)[..., 0, :]
        first = self.transformer.first_token(input_ids, attention_mask)
        if self.config.pooler_activation is None:
            return first
        return ACTIVATIONS[self.config.pooler_activation](self.pooler(first))

    def layer_states(self, input_ids: jax.Array, attention_mask: jax.Array) -> list[jax.Array]:
        """Hidden states `(..., T, hidden_size)` of each of the `feature_layers`."""
        layers = self.config.feature_layers
        return self.transformer.hidden_after(input_ids, attention_mask, layers)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Logits `(..., num_labels)` float32; arguments and errors as in `Transformer`."""
        return self.classifier(self.pool(input_ids, attention_mask)).astype(jnp.float32)


class TokenClassifier(_Headed):
    """A transformer with a linear classifier of every token.

    Example:
        >>> from dpjax.models import TokenClassifier, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = TokenClassifier(config, num_labels=5, rngs=nnx.Rngs(0))
        >>> model(jnp.array([[3, 1, 2]]), jnp.ones((1, 3), bool)).shape
        (1, 3, 5)
    """

    def __init__(self, config: TransformerConfig, *, num_labels: int, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.num_labels = num_labels
        self.classifier = _linear(config, num_labels, True, rngs)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Logits `(..., T, num_labels)` float32; arguments and errors as in `Transformer`."""
        return self.classifier(self.hidden_states(input_ids, attention_mask)).astype(jnp.float32)


Model = CausalLM | MaskedLM | SequenceClassifier | TokenClassifier


def task_of(model: Model) -> Task:
    """The task whose head the model has."""
    if isinstance(model, CausalLM):
        return "causal_lm"
    if isinstance(model, MaskedLM):
        return "masked_lm"
    is_sequence = isinstance(model, SequenceClassifier)
    return "sequence_classification" if is_sequence else "token_classification"
