"""A perceptron that is a mixture of experts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.config import TransformerConfig
from dpjax.models.net.layers import ACTIVATIONS, Linear


class Expert(nnx.Module):
    """One gated perceptron (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        size, inner = config.hidden_size, config.intermediate_size
        options: dict[str, Any] = {"bias": False, "stddev": config.initializer_range, "rngs": rngs}
        self.activation = config.activation
        self.gate_proj = Linear(size, inner, **options)
        self.up_proj = Linear(size, inner, **options)
        self.down_proj = Linear(inner, size, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., hidden_size)` to the same shape."""
        return self.down_proj(ACTIVATIONS[self.activation](self.gate_proj(x)) * self.up_proj(x))


class Experts(nnx.Module):
    """The weighted sum of the experts that a router chooses for each token.

    Jiang et al. 2024, arXiv:2401.04088, section 2.1. Every expert computes every token, and those
    that are not chosen get weight zero. So what a record contributes depends on no other record:
    there is no capacity that others could use up.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.num_chosen = config.experts_per_token
        self.sums_to_one = config.normalised_experts
        self.router = Linear(
            config.hidden_size,
            config.num_experts,
            bias=False,
            stddev=config.initializer_range,
            rngs=rngs,
        )
        self.experts = nnx.List([Expert(config, rngs=rngs) for _ in range(config.num_experts)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., hidden_size)` to the same shape."""
        weights = self.weights(x).astype(x.dtype)
        parts = (
            weights[..., number, None] * expert(x) for number, expert in enumerate(self.experts)
        )
        total = next(parts)
        for part in parts:
            total = total + part
        return total

    def weights(self, x: jax.Array) -> jax.Array:
        """The weight of each expert, `(..., num_experts)` float32, zero for one not chosen."""
        probabilities = jax.nn.softmax(self.router(x).astype(jnp.float32), axis=-1)
        _, chosen = jax.lax.top_k(jax.lax.stop_gradient(probabilities), self.num_chosen)
        is_chosen = jax.nn.one_hot(chosen, probabilities.shape[-1]).sum(axis=-2)
        weights = probabilities * is_chosen
        if self.sums_to_one:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return weights
