"""Σ_i c_i · piece_i over the examples of a batch, contracted in one go.

`summed` is written for one example and may be used anywhere under one `jax.vmap`, also inside a
loop: its batching rule sums over the examples, so that its result has no batch axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.float32.products import product
from dpjax.privatize.structured.terms.pieces import (
    Arrays,
    ContractionArrays,
    DenseArray,
    Form,
    RowsArrays,
)

_EXACT = jax.lax.Precision.HIGHEST


def summed(factor: jax.Array, arrays: Arrays, form: Form) -> jax.Array:
    """Computes c · (the root's value) of one example; under vmap the sum over examples. float32.

    Args:
        factor: c, scalar float32; an example whose factor is 0 contributes exactly zero, whatever
            it holds.
        arrays: what the root is computed from.
        form: shape and moves of the root.
    """
    leaves, treedef = jax.tree.flatten(arrays)

    @jax.custom_batching.custom_vmap
    def sum_one(factor: jax.Array, *leaves: jax.Array) -> jax.Array:
        batch = [leaf[None] for leaf in leaves]
        return sum_over_batch(factor[None], jax.tree.unflatten(treedef, batch), form)

    @sum_one.def_vmap
    def sum_batch(
        axis_size: int, in_batched: Sequence[bool], factor: jax.Array, *leaves: jax.Array
    ) -> tuple[jax.Array, bool]:
        factors, *full = [
            x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            for x, batched in zip((factor, *leaves), in_batched, strict=True)
        ]
        counted = without(factors == 0, jax.tree.unflatten(treedef, full))
        return sum_over_batch(factors, counted, form), False

    return sum_one(factor, *leaves)


def without(left_out: jax.Array, arrays: PyTree, axis: int = 0) -> PyTree:
    """Zeros for the examples (along `axis`) that are left out, in all floating-point arrays.

    0 × NaN is NaN: what must not count is replaced, not scaled.
    """

    def replaced(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        rows = left_out.reshape(-1, *[1] * (x.ndim - 1 - axis))
        return jnp.where(rows, jnp.zeros((), x.dtype), x)

    return jax.tree.map(replaced, arrays)


@jax.named_scope("clipped_sums")
def sum_over_batch(factors: jax.Array, arrays: Arrays, form: Form) -> jax.Array:
    """Σ_i c_i · root_i in the root's shape, from finite arrays with a leading batch axis."""
    if isinstance(arrays, ContractionArrays):
        a, g = arrays
        # The smaller one is scaled, since that makes a copy of it.
        a, g = (_scaled(factors, a), g) if a.size < g.size else (a, _scaled(factors, g))
        total = product("b...td,b...tp->...dp", a, g)
    elif isinstance(arrays, RowsArrays):
        updates = _scaled(factors, arrays.updates.astype(jnp.float32))
        total = jnp.zeros((form.num_rows, updates.shape[2]), jnp.float32)
        total = total.at[arrays.ids.reshape(-1)].add(updates.reshape(-1, updates.shape[2]))
    else:
        assert isinstance(arrays, DenseArray)
        # Full float32: the default precision of accelerators would round the operands.
        total = jnp.tensordot(factors, arrays.x.astype(jnp.float32), axes=1, precision=_EXACT)
    return total.reshape(form.shape)


def _scaled(factors: jax.Array, x: jax.Array) -> jax.Array:
    rows = factors.reshape(-1, *[1] * (x.ndim - 1))
    scaled = rows * x.astype(jnp.float32)
    # Back to bfloat16, whose range is that of float32. The product of a factor and a float16 may
    # overflow or vanish there.
    return scaled.astype(x.dtype) if x.dtype == jnp.bfloat16 else scaled
