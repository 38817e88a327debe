"""Masks and scaled dot-product attention."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp


def positions_of(attention_mask: jax.Array) -> jax.Array:
    """Position of every token among those that are not padding: `(..., T)` bool to int32.

    Padding on the left gets position 0.
    """
    return jnp.maximum(jnp.cumsum(attention_mask, axis=-1, dtype=jnp.int32) - 1, 0)


def visible(
    key_mask: jax.Array, num_queries: int, first_query: jax.Array | int, causal: bool, window: int
) -> jax.Array:
    """Which keys each query sees: `(..., 1, Q or 1, K)` bool, the axis of heads in front of Q.

    Args:
        key_mask: `(..., K)` bool, false where a key is padding.
        num_queries: Q; queries stand at the places first_query, first_query + 1, ... of the keys.
        first_query: the place of the first query among the keys.
        causal: whether queries see only keys at their own place or before.
        window: how many places a query sees, its own included; 0 for all. Encoders see all.
    """
    mask = key_mask[..., None, None, :]
    if not causal:
        return mask
    queries = first_query + jnp.arange(num_queries)
    distance = queries[:, None] - jnp.arange(key_mask.shape[-1])[None, :]
    seen = distance >= 0
    seen = seen & (distance < window) if window else seen
    return mask & seen.reshape((1,) * (mask.ndim - 2) + seen.shape)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    implementation: Literal["einsum", "cudnn"] = "einsum",
) -> jax.Array:
    """Scaled dot-product attention of every head (Vaswani et al. 2017, equation 1).

    The softmax is taken in float32. A query without a single visible key attends uniformly, so that
    padding stays finite.

    Args:
        query: `(..., Q, H, D)`.
        key: `(..., K, G, D)`, each of the G heads shared by H / G heads of queries (Ainslie et al.
            2023, arXiv:2305.13245); `value` likewise.
        value: `(..., K, G, D)`, shared like `key`.
        mask: what `visible` returns.
        scale: of the scores.
        softcap: scores become softcap · tanh(score / softcap).
        implementation: with "cudnn", cuDNN's fused kernel (Dao 2023, arXiv:2307.08691) computes
            what it can, an even number of queries and of keys without a softcap. It keeps no
            scores for the backward pass, but takes a mask `(..., H, Q, K)`. Needs an NVIDIA
            GPU, bfloat16, and D a multiple of 8.

    Returns:
        `(..., Q, H, D)` in the dtype of `value`.
    """
    even = query.shape[-3] % 2 == 0 and key.shape[-3] % 2 == 0
    if implementation == "cudnn" and even and softcap is None:
        return _attend_with_cudnn(query, key, value, mask, scale)
    *lead, num_queries, heads, size = query.shape
    groups = key.shape[-2]
    if groups == heads:
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key)
    else:
        shared = query.reshape(*lead, num_queries, groups, heads // groups, size)
        scores = jnp.einsum("...qghd,...kgd->...ghqk", shared, key)
        mask = mask[..., None, :, :]
    scores = scores.astype(jnp.float32) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if groups == heads:
        return jnp.einsum("...hqk,...khd->...qhd", weights, value)
    context = jnp.einsum("...ghqk,...kgd->...qghd", weights, value)
    return context.reshape(query.shape)


def _attend_with_cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, scale: float
) -> jax.Array:
    *lead, num_queries, heads, _ = query.shape
    # Its rule for jax.vmap takes only masks with an entry for every head and query.
    seen = jnp.broadcast_to(mask, (*lead, heads, num_queries, key.shape[-3]))
    context = jax.nn.dot_product_attention(
        *(part.reshape(-1, *part.shape[-3:]) for part in (query, key, value)),
        mask=seen.reshape(-1, *seen.shape[-3:]),
        scale=scale,
        implementation="cudnn",
    )
    return context.reshape(query.shape)
