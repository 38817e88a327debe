"""One layer of a transformer: attention and perceptron with their norms and residual sums."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.config import TransformerConfig
from dpjax.models.net.attention import attend
from dpjax.models.net.experts import Experts
from dpjax.models.net.layers import ACTIVATIONS, Linear, Norm
from dpjax.models.net.quantised import QuantisedLinear
from dpjax.models.net.rope import Rotation, rotate


class Cache(NamedTuple):
    """Keys and values of one layer, `(..., S, G, D)` each, for S places of a sequence."""

    key: jax.Array
    value: jax.Array


class Surroundings(NamedTuple):
    """What a layer needs besides its input.

    `mask` is what `attention.visible` returns, `rotation` that of the queries' places or None;
    `first_place` is where in the cache the given tokens go, `query_scale` what
    `rope.query_scale` returns.
    """

    mask: jax.Array
    rotation: Rotation | None
    query_scale: jax.Array | None = None
    first_place: jax.Array | int = 0


def _linear(
    config: TransformerConfig, inputs: int, outputs: int, bias: bool, rngs: nnx.Rngs
) -> Linear | QuantisedLinear:
    layer = Linear(inputs, outputs, bias=bias, stddev=config.initializer_range, rngs=rngs)
    return layer if config.quantise == "none" else QuantisedLinear(layer, config.quantise)


class Attention(nnx.Module):
    """Multi-head self-attention with separate projections, or one for queries, keys and values."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        size, bias = config.hidden_size, config.qkv_bias
        inner, shared = (n * config.head_size for n in (config.num_heads, config.num_kv_heads))
        if config.fused_qkv:
            self.qkv_proj = _linear(config, size, inner + 2 * shared, bias, rngs)
        else:
            self.q_proj = _linear(config, size, inner, bias, rngs)
            self.k_proj = _linear(config, size, shared, bias, rngs)
            self.v_proj = _linear(config, size, shared, bias, rngs)
        self.o_proj = _linear(config, inner, size, config.output_bias, rngs)
        if config.qk_norm:
            per_head = config.qk_norm == "head"
            self.q_norm = Norm(config.head_size if per_head else inner, config)
            self.k_norm = Norm(config.head_size if per_head else shared, config)

    def __call__(
        self,
        hidden: jax.Array,
        around: Surroundings,
        cache: Cache | None = None,
        *,
        first_only: bool = False,
    ) -> tuple[jax.Array, Cache | None]:
        """Maps `(..., T, hidden_size)` to the same shape.

        Returns:
            The hidden states, `(..., 1, hidden_size)` of the first token with `first_only`; and the
            cache with the keys and values of these tokens written.
        """
        config = self.config
        query, key, value = self._project(hidden, first_only)
        if config.qk_norm == "head":
            query, key = self.q_norm(query), self.k_norm(key)
        if around.rotation is not None:
            query, key = rotate(query, around.rotation), rotate(key, around.rotation)
        if around.query_scale is not None:
            query = query * around.query_scale.astype(query.dtype)
        if cache is not None:
            cache = _written(cache, key, value, around.first_place)
            key, value = (part.astype(query.dtype) for part in cache)
        context = attend(
            query,
            key,
            value,
            around.mask,
            scale=config.attention_scale,
            softcap=config.attention_softcap,
            implementation=config.attention,
        )
        return self.o_proj(context.reshape(*context.shape[:-2], -1)), cache

    def _project(
        self, hidden: jax.Array, first_only: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries `(..., T, H, D)`, keys and values `(..., T, G, D)`."""
        config = self.config
        if not config.fused_qkv:
            query = self.q_proj(hidden[..., :1, :] if first_only else hidden)
            key, value = self.k_proj(hidden), self.v_proj(hidden)
            if config.qk_norm == "projection":
                query, key = self.q_norm(query), self.k_norm(key)
            return self._heads(query), self._heads(key), self._heads(value)
        fused = self._heads(self.qkv_proj(hidden))
        if config.fused_qkv == "blocks":
            heads, shared = config.num_heads, config.num_kv_heads
            query, key, value = jnp.split(fused, (heads, heads + shared), axis=-2)
        else:
            by_head = fused.reshape(*fused.shape[:-2], config.num_heads, 3, config.head_size)
            query, key, value = (by_head[..., index, :] for index in range(3))
        return query[..., :1, :, :] if first_only else query, key, value

    def _heads(self, projected: jax.Array) -> jax.Array:
        return projected.reshape(*projected.shape[:-1], -1, self.config.head_size)


def _written(cache: Cache, key: jax.Array, value: jax.Array, first: jax.Array | int) -> Cache:
    parts = zip(cache, (key, value), strict=True)
    return Cache(
        *(
            jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), first, axis=-3)
            for old, new in parts
        )
    )


class Mlp(nnx.Module):
    """The perceptron of a layer, gated (Shazeer 2020, arXiv:2002.05202) or plain."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = config.activation
        self.gated, self.fused = config.gated, config.fused_gate_up
        if self.fused:
            self.gate_up_proj = _linear(config, size, 2 * inner, bias, rngs)
        else:
            if self.gated:
                self.gate_proj = _linear(config, size, inner, bias, rngs)
            self.up_proj = _linear(config, size, inner, bias, rngs)
        self.down_proj = _linear(config, inner, size, bias, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., hidden_size)` to the same shape."""
        act = ACTIVATIONS[self.activation]
        if self.fused:
            gate, up = jnp.split(self.gate_up_proj(x), 2, axis=-1)
            return self.down_proj(act(gate) * up)
        if self.gated:
            return self.down_proj(act(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(act(self.up_proj(x)))


class Block(nnx.Module):
    """A layer, its norms placed as the family places them."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.placement = config.norm_placement
        self.parallel = config.parallel_residual
        self.self_attn = Attention(config, rngs=rngs)
        self.residual_scale = config.residual_scale
        self.mlp = (Experts if config.num_experts else Mlp)(config, rngs=rngs)
        self.attention_norm = Norm(config.hidden_size, config)
        self.mlp_norm = Norm(config.hidden_size, config)
        if self.placement == "sandwich":
            self.attention_out_norm = Norm(config.hidden_size, config)
            self.mlp_out_norm = Norm(config.hidden_size, config)

    def __call__(
        self,
        hidden: jax.Array,
        around: Surroundings,
        cache: Cache | None = None,
        *,
        first_only: bool = False,
    ) -> tuple[jax.Array, Cache | None]:
        """Shapes as in `Attention`."""
        before = self.placement in ("pre", "sandwich")
        attended, cache = self.self_attn(
            self.attention_norm(hidden) if before else hidden,
            around,
            cache,
            first_only=first_only,
        )
        hidden = hidden[..., :1, :] if first_only else hidden
        if self.parallel:
            return hidden + attended + self.mlp(self.mlp_norm(hidden)), cache
        hidden = self._add(hidden, attended, self.attention_norm, "attention_out_norm")
        added = self.mlp(self.mlp_norm(hidden) if before else hidden)
        return self._add(hidden, added, self.mlp_norm, "mlp_out_norm"), cache

    def _add(self, hidden: jax.Array, branch: jax.Array, norm: Norm, out_norm: str) -> jax.Array:
        if self.placement == "post":
            return norm(hidden + branch)
        if self.placement == "branch":
            return hidden + norm(branch)
        if self.placement == "sandwich":
            return hidden + getattr(self, out_norm)(branch)
        if self.residual_scale != 1:
            branch = self.residual_scale * branch
        return hidden + branch
