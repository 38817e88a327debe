"""The reference strategy: compute every per-example gradient, then clip and sum.

Memory: B × (number of parameters) values. Exact for any differentiable loss, hence what every
other strategy is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.effects import trace_gradient
from dpjax.privatize.devices.room import Room
from dpjax.privatize.devices.varying import example_types
from dpjax.privatize.float32.scaling import dense_norm
from dpjax.privatize.rules.clipping_rules import ClippingRule, leaf_groups, scale


def materialize(
    loss_fn: Callable[..., Any], rule: ClippingRule, has_aux: bool, room: Room | None = None
) -> Callable[..., Any]:
    """Returns `clip(params, batch, mask) -> (grads, rows, losses, aux)` by `vmap` of `grad`.

    Nothing here is done in portions that `room` could make smaller. `clip` raises ValueError
    if the gradient of one example exchanges values over a named axis.
    """
    del room
    differentiate = jax.value_and_grad(loss_fn, has_aux=has_aux)
    value_and_grad = jax.vmap(differentiate, in_axes=(None, 0))

    def clip(params: PyTree, batch: PyTree, mask: jax.Array) -> tuple[Any, ...]:
        groups = leaf_groups(rule, params)
        trace_gradient(differentiate, params, example_types(batch))
        value, per_example = value_and_grad(params, batch)
        losses, aux = value if has_aux else (value, None)
        leaves, tree = jax.tree.flatten(per_example)
        leaves = [leaf.astype(jnp.float32) for leaf in leaves]
        factors, rows = scale(rule, [jax.vmap(dense_norm)(leaf) for leaf in leaves], groups, mask)
        grads = [
            _weighted_sum(factors[:, group], leaf)
            for leaf, group in zip(leaves, groups, strict=True)
        ]
        losses = jnp.where(mask, losses.astype(jnp.float32), 0.0)
        return jax.tree.unflatten(tree, grads), rows, losses, aux

    return clip


def _weighted_sum(factors: jax.Array, per_example: jax.Array) -> jax.Array:
    rows = factors.reshape(-1, *[1] * (per_example.ndim - 1))
    # 0 × NaN is NaN: rows that must not count are replaced, not scaled.
    counted = jnp.where(rows > 0, per_example, 0.0)
    # Full float32: the default precision of accelerators would round the operands.
    return jnp.tensordot(factors, counted, axes=1, precision=jax.lax.Precision.HIGHEST)
