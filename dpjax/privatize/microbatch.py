"""One microbatch after another under `lax.scan`, adding up the clipped sums in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def run(clip: Callable, params: PyTree, batch: PyTree, mask: jax.Array, size: int) -> tuple:
    """Applies `clip` to slices of `size` rows; memory of one microbatch plus one accumulator.

    A last, shorter slice is filled with masked copies of the first row: real values, so that
    padding cannot raise a floating-point fault that the data would not.

    Returns:
        `(grads, norms, losses, aux)` for the whole batch, as `clip` returns them for one slice.
    """
    batch_size = mask.shape[0]
    num_slices = -(-batch_size // size)
    padding = num_slices * size - batch_size

    def pad_and_split(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        filler = jnp.broadcast_to(leaf[:1], (padding, *leaf.shape[1:]))
        return jnp.concatenate([leaf, filler]).reshape(num_slices, size, *leaf.shape[1:])

    slices = jax.tree.map(pad_and_split, batch)
    masks = jnp.concatenate([mask, jnp.zeros(padding, bool)]).reshape(num_slices, size)

    def step(total: PyTree, one: tuple) -> tuple:
        grads, norms, losses, aux = clip(params, *one)
        return jax.tree.map(jnp.add, total, grads), (norms, losses, aux)

    zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.float32), params)
    grads, per_row = jax.lax.scan(step, zeros, (slices, masks))
    joined = jax.tree.map(
        lambda leaf: leaf.reshape(num_slices * size, *leaf.shape[2:])[:batch_size], per_row
    )
    return grads, *joined
