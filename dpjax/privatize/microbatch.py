"""One microbatch after another under `lax.scan`, adding up the clipped sums in float32.

How the rows are cut: with g the greatest common divisor of the batch size and the microbatch size,
the batch is seen as g groups of consecutive rows, and every microbatch takes the next few rows of
every group. A batch that is spread over devices in blocks, as data parallelism does, is thus cut
within each device wherever the number of devices divides both sizes: no row leaves its device, and
all devices work on every microbatch. Consecutive blocks of rows would lie on a few devices each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.varying import axes_of, vary


def run(
    clip: Callable[..., Any], params: PyTree, batch: PyTree, mask: jax.Array, size: int
) -> tuple[Any, ...]:
    """Applies `clip` to `size` rows at a time; memory of one microbatch plus one accumulator.

    Where `size` does not divide the batch, the last microbatch sees again some rows of the one
    before, masked: real values, so that they cannot raise a floating-point fault that the data
    would not.

    Args:
        clip: `(params, batch, mask) -> (grads, norms, losses, aux)` for one microbatch.
        params: the parameters.
        batch: the examples, with a leading axis `(B, ...)`.
        mask: `(B,)` bool, which of them count.
        size: at least 1, at most the number of rows.

    Returns:
        What `clip` returns, for the whole batch, with rows in the order of the batch.
    """
    batch_size = mask.shape[0]
    groups = math.gcd(batch_size, size)
    in_group, taken = batch_size // groups, size // groups
    num_slices = -(-in_group // taken)
    grouped = jax.tree.map(
        lambda leaf: jnp.reshape(leaf, (groups, in_group, *jnp.shape(leaf)[1:])), (batch, mask)
    )

    def step(total: PyTree, index: jax.Array) -> tuple[Any, ...]:
        first = jnp.minimum(index * taken, in_group - taken)
        # Slices are read where they lie: no second copy of the batch.
        rows, counted = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, taken, axis=1), grouped
        )
        counted &= (first + jnp.arange(taken) >= index * taken)[None]
        rows, counted = jax.tree.map(
            lambda leaf: leaf.reshape(size, *leaf.shape[2:]), (rows, counted)
        )
        grads, *per_row = clip(params, rows, counted)
        return jax.tree.map(jnp.add, total, grads), per_row

    def in_order(leaf: jax.Array) -> jax.Array:
        leaf = jnp.moveaxis(leaf.reshape(num_slices, groups, taken, *leaf.shape[2:]), 0, 1)
        leaf = leaf.reshape(groups, num_slices * taken, *leaf.shape[3:])
        whole, seen_again = (num_slices - 1) * taken, num_slices * taken - in_group
        if seen_again:
            leaf = jnp.concatenate([leaf[:, :whole], leaf[:, whole + seen_again :]], axis=1)
        return leaf.reshape(batch_size, *leaf.shape[2:])

    zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.float32), params)
    zeros = vary(zeros, axes_of((params, batch, mask)))
    per_row: list[PyTree]
    grads, per_row = jax.lax.scan(step, zeros, jnp.arange(num_slices))
    return grads, *jax.tree.map(in_order, per_row)
