"""Σ_i c_i · piece_i over the examples of a batch, contracted in one go.

`summed` is written for one example and may be used anywhere under one `jax.vmap`, also inside a
loop: its batching rule sums over the examples, so that its result has no batch axis.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dpjax.privatize.structured.pieces import (
    Arrays,
    ContractionArrays,
    DenseArray,
    Form,
    RowsArrays,
)
from dpjax.privatize.structured.products import product

_EXACT = jax.lax.Precision.HIGHEST


def summed(factor: jax.Array, arrays: Arrays, form: Form) -> jax.Array:
    """c · (the root's value) of one example; under vmap the sum over examples. float32.

    Args:
        factor: scalar float32; an example whose factor is 0 contributes exactly zero, whatever it
            holds.
    """
    leaves, treedef = jax.tree.flatten(arrays)

    @jax.custom_batching.custom_vmap
    def of_one(factor: jax.Array, *leaves: jax.Array) -> jax.Array:
        batch = [leaf[None] for leaf in leaves]
        return sum_over_batch(factor[None], jax.tree.unflatten(treedef, batch), form)

    @of_one.def_vmap
    def of_batch(axis_size, in_batched, factor, *leaves):
        full = [
            x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            for x, batched in zip((factor, *leaves), in_batched, strict=True)
        ]
        return sum_over_batch(full[0], jax.tree.unflatten(treedef, full[1:]), form), False

    return of_one(factor, *leaves)


def sum_over_batch(factors: jax.Array, arrays: Arrays, form: Form) -> jax.Array:
    """Σ_i c_i · root_i in the root's shape, from arrays with a leading batch axis."""
    if isinstance(arrays, ContractionArrays):
        a, g = arrays
        # The smaller one, since a copy is made of it.
        if a.size < g.size:
            a, g = _scaled(factors, a), _counted(factors, g)
        else:
            a, g = _counted(factors, a), _scaled(factors, g)
        total = product("bntd,bntp->ndp", a, g)
    elif isinstance(arrays, RowsArrays):
        updates = _scaled(factors, arrays.updates.astype(jnp.float32))
        total = jnp.zeros((form.num_rows, updates.shape[2]), jnp.float32)
        total = total.at[arrays.ids.reshape(-1)].add(updates.reshape(-1, updates.shape[2]))
    else:
        assert isinstance(arrays, DenseArray)
        x = _counted(factors, arrays.x.astype(jnp.float32))
        total = jnp.tensordot(factors, x, axes=1, precision=_EXACT)
    return total.reshape(form.shape)


def _rows_of(factors: jax.Array, x: jax.Array) -> jax.Array:
    return factors.reshape(-1, *[1] * (x.ndim - 1))


def _counted(factors: jax.Array, x: jax.Array) -> jax.Array:
    # 0 × NaN is NaN: examples that must not count are replaced, not scaled.
    return jnp.where(_rows_of(factors, x) > 0, x, jnp.zeros((), x.dtype))


def _scaled(factors: jax.Array, x: jax.Array) -> jax.Array:
    rows = _rows_of(factors, x)
    scaled = jnp.where(rows > 0, rows * x.astype(jnp.float32), 0.0)
    return scaled.astype(x.dtype)
