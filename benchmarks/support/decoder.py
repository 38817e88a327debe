"""A decoder of the shape of GPT-2 in plain JAX, its layers scanned or unrolled, its head tied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.models.text.losses import causal_lm_loss

PyTree = Any

_LAYER_PARAMS = ("qkv", "attention_out", "up", "down", "norm_1", "norm_2")


@dataclasses.dataclass(frozen=True)
class DecoderSize:
    """How large a decoder and its batch are."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    head_size: int
    batch_size: int
    length: int
    """Tokens of an example."""

    @property
    def num_heads(self) -> int:
        """The number of attention heads."""
        return self.hidden_size // self.head_size

    def draw_params(self) -> PyTree:
        """Random parameters, as `init_decoder` has them."""
        return init_decoder(
            jax.random.key(0),
            layers=self.num_layers,
            size=self.hidden_size,
            vocab=self.vocab_size,
            length=self.length,
        )

    def draw_ids(self) -> jax.Array:
        """Random tokens `(batch_size, length)` int32."""
        rng = np.random.default_rng(0)
        ids = rng.integers(0, self.vocab_size, (self.batch_size, self.length))
        return jnp.asarray(ids, jnp.int32)


def init_decoder(
    key: jax.Array, *, layers: int, size: int, vocab: int, length: int, dtype: Any = jnp.float32
) -> PyTree:
    """Random parameters; those of the layers are stacked along a first axis."""
    shapes = {
        "table": (vocab, size),
        "positions": (length, size),
        "qkv": (layers, size, 3 * size),
        "attention_out": (layers, size, size),
        "up": (layers, size, 4 * size),
        "down": (layers, 4 * size, size),
    }
    keys = jax.random.split(key, len(shapes))
    params = {
        name: (0.02 * jax.random.normal(one, shape)).astype(dtype)
        for one, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    for name, rows in (("norm_1", layers), ("norm_2", layers)):
        params[name] = jnp.ones((rows, size), dtype)
    return params | {"norm": jnp.ones(size, dtype)}


def unstack_layers(params: PyTree) -> PyTree:
    """The parameters of `init_decoder` with a list of layers, for `unrolled_decoder_loss`."""
    number = params["qkv"].shape[0]
    layers = [{name: params[name][i] for name in _LAYER_PARAMS} for i in range(number)]
    rest = {name: leaf for name, leaf in params.items() if name not in _LAYER_PARAMS}
    return rest | {"layers": layers}


def decoder_loss(
    *, heads: int, rematerialise: bool, compute_dtype: Any, vocab_chunk: int | None = None
) -> Callable:
    """`loss(params, ids)`: mean next-token cross-entropy of one sequence `(T,)` int32.

    With `vocab_chunk` the logits of that many tokens of the vocabulary are held at once.
    """
    layer = _make_layer(heads, rematerialise)

    def apply_layers(h: jax.Array, p: PyTree) -> jax.Array:
        stacked = {name: p[name] for name in _LAYER_PARAMS}
        return jax.lax.scan(lambda h, one: (layer(h, one), None), h, stacked)[0]

    return _make_loss(apply_layers, compute_dtype, vocab_chunk)


def unrolled_decoder_loss(*, heads: int, rematerialise: bool, compute_dtype: Any) -> Callable:
    """The same with a Python loop over `params["layers"]` (see `unstack_layers`)."""
    layer = _make_layer(heads, rematerialise)

    def apply_layers(h: jax.Array, p: PyTree) -> jax.Array:
        for one in p["layers"]:
            h = layer(h, one)
        return h

    return _make_loss(apply_layers, compute_dtype)


def _make_layer(heads: int, rematerialise: bool) -> Callable[[jax.Array, PyTree], jax.Array]:
    def layer(h: jax.Array, p: PyTree) -> jax.Array:
        h = h + _attention(_normalise(h, p["norm_1"]), p, heads)
        inner = jax.nn.gelu(_normalise(h, p["norm_2"]) @ p["up"])
        return h + inner @ p["down"]

    return jax.checkpoint(layer, prevent_cse=False) if rematerialise else layer


def _make_loss(
    apply_layers: Callable, compute_dtype: Any, vocab_chunk: int | None = None
) -> Callable:
    def loss(params: PyTree, ids: jax.Array) -> jax.Array:
        p = jax.tree.map(lambda leaf: leaf.astype(compute_dtype), params)
        h = apply_layers(p["table"][ids] + p["positions"][: ids.shape[0]], p)
        h = _normalise(h[:-1], p["norm"])
        if vocab_chunk is not None:
            counted = jnp.ones(h.shape[0], bool)
            return causal_lm_loss(
                h, p["table"], ids[1:], counted, vocab_axis=0, vocab_chunk=vocab_chunk
            )
        logits = (h @ p["table"].T).astype(jnp.float32)
        picked = jnp.take_along_axis(logits, ids[1:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)

    return loss


def _normalise(h: jax.Array, scale: jax.Array) -> jax.Array:
    h = h - jnp.mean(h, axis=-1, keepdims=True)
    return scale * h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-5)


def _attention(h: jax.Array, p: PyTree, heads: int) -> jax.Array:
    length, size = h.shape
    q, k, v = jnp.split((h @ p["qkv"]).reshape(length, 3 * heads, size // heads), 3, axis=1)
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return mixed.reshape(length, size) @ p["attention_out"]
