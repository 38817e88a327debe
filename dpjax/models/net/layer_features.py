"""Features of a text from several layers: of its tokens, centred, of unit norm."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.config import TransformerConfig

# Far below the norm of any hidden state; of one that is zero there is no direction.
_TINY = 1e-12
# The classifier's bias is its weight for this number, which follows the features. An ordinary bias
# has a gradient as large as that of all features together, and takes half of the squared clip norm;
# with this number the norm is 2 % larger, and classes may still differ in size.
CONSTANT = 0.2


class LayerFeatures(nnx.Module):
    """What a classifier reads of the hidden states of several layers.

    Of each layer l the mean over tokens (of a decoder: the last token, which alone has seen all the
    others) is scaled to unit norm, less a centre c_l, and scaled to unit norm again; the L layers
    are concatenated and divided by √L, and a constant, 0.2, stands in the place of a bias. So the
    features of each text have the same norm, 1.02: the gradient of a linear classifier on them is
    bounded by the model alone. The centre is the same for all texts, and is never trained;
    `centre_features` takes it from texts of random words.

    Attributes:
        centre: `(L, hidden_size)`, zero at first.

    Example:
        >>> from dpjax.models import parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=2, n_head=2).to_dict())
        >>> features = LayerFeatures(config, num_layers=2)
        >>> hidden, mask = jnp.ones((3, 5, 8)), jnp.ones((3, 5), bool)
        >>> features([hidden, hidden], mask).shape
        (3, 17)
    """

    def __init__(self, config: TransformerConfig, num_layers: int):
        self.is_causal = config.causal
        self.centre = nnx.Param(jnp.zeros((num_layers, config.hidden_size)))

    def __call__(self, hidden: Sequence[jax.Array], attention_mask: jax.Array) -> jax.Array:
        """Returns features `(..., L · hidden_size + 1)` float32, the last one the constant.

        Args:
            hidden: of each layer `(..., T, hidden_size)`.
            attention_mask: `(..., T)` bool.
        """
        units = to_unit_norm(self.read(hidden, attention_mask))
        centre = self.centre[...].astype(jnp.float32)
        parts = to_unit_norm(units - centre)
        features = parts.reshape(*parts.shape[:-2], -1) / len(hidden) ** 0.5
        constant = jnp.full((*features.shape[:-1], 1), CONSTANT, features.dtype)
        return jnp.concatenate([features, constant], axis=-1)

    def read(self, hidden: Sequence[jax.Array], attention_mask: jax.Array) -> jax.Array:
        """Returns `(..., L, hidden_size)` float32: of each layer the mean, or the last token."""
        read = last_token(attention_mask) if self.is_causal else attention_mask
        return jnp.stack([mean_of_tokens(each, read) for each in hidden], axis=-2)


def mean_of_tokens(hidden: jax.Array, attention_mask: jax.Array) -> jax.Array:
    """Returns the mean `(..., hidden_size)` float32 over tokens that are not padding."""
    counts = attention_mask[..., None].astype(jnp.float32)
    total = jnp.sum(hidden.astype(jnp.float32) * counts, axis=-2)
    return total / jnp.maximum(jnp.sum(counts, axis=-2), 1.0)


def last_token(attention_mask: jax.Array) -> jax.Array:
    """Returns `(..., T)` bool, true at the last token that is not padding, if there is one."""
    places = jnp.broadcast_to(jnp.arange(attention_mask.shape[-1]), attention_mask.shape)
    last = jnp.max(jnp.where(attention_mask, places, -1), axis=-1, keepdims=True)
    return places == last


def to_unit_norm(x: jax.Array) -> jax.Array:
    """Returns vectors along the last axis scaled to norm 1; those that are zero stay so."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _TINY)
