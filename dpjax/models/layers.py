"""The functions inside a transformer block: attention and activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Φ(x) = x (1 + erf(x / √2)) / 2 (Hendrycks and Gimpel 2016)."""
    # jax.nn.gelu goes through erfc, which costs twice as much in the forward pass on a CPU.
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "gelu": gelu,
        "gelu_tanh": partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
    }
)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array) -> jax.Array:
    """Scaled dot-product attention of every head (Vaswani et al. 2017, equation 1).

    The softmax is taken in float32. A row without a single valid key attends uniformly, so that a
    padding example stays finite.

    Args:
        query: `(..., T, H, D)`; `key` and `value` likewise.
        key_mask: `(..., T)` bool, false where a key is padding.

    Returns:
        `(..., T, H, D)` in the dtype of `value`.
    """
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key) * query.shape[-1] ** -0.5
    scores = scores.astype(jnp.float32)
    lowest = jnp.finfo(jnp.float32).min
    scores = jnp.where(key_mask[..., None, None, :], scores, lowest)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)
