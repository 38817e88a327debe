"""The reference strategy: compute every per-example gradient, then clip and sum.

Memory: B × (number of parameters) values. Exact for any differentiable loss, hence what every
other strategy is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any

# One part in 2¹⁹ ≈ 1.9e-6: many times the rounding error of a float32 norm, factor and product.
ROUNDING_MARGIN = 2.0**-19


def materialize(loss_fn: Callable, clip_norm: float, has_aux: bool) -> Callable:
    """Returns `clip(params, batch, mask) -> (grads, norms, losses, aux)` by `vmap` of `grad`."""
    value_and_grad = jax.vmap(jax.value_and_grad(loss_fn, has_aux=has_aux), in_axes=(None, 0))

    def clip(params: PyTree, batch: PyTree, mask: jax.Array) -> tuple:
        value, per_example = value_and_grad(params, batch)
        losses, aux = value if has_aux else (value, None)
        per_example = jax.tree.map(lambda g: g.astype(jnp.float32), per_example)
        norms = jnp.where(mask, per_example_norms(per_example, mask.shape[0]), 0.0)
        factors = clip_factors(norms, clip_norm, mask)
        grads = jax.tree.map(lambda g: _weighted_sum(factors, g), per_example)
        return grads, norms, jnp.where(mask, losses.astype(jnp.float32), 0.0), aux

    return clip


def per_example_norms(per_example: PyTree, batch_size: int) -> jax.Array:
    """L2 norms over all leaves together, `(B,)` float32, from float32 leaves `(B, ...)`.

    Scaled by the largest entry, so that squares neither overflow nor vanish. NaN or inf where an
    entry is not finite.
    """
    leaves = [g for g in jax.tree.leaves(per_example) if g.size]
    if not leaves:
        return jnp.zeros(batch_size, jnp.float32)
    # No flattening: that would gather gradients whose parameters are spread over devices.
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g), axis=_own_axes(g)) for g in leaves]), axis=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    squares = sum(
        jnp.sum(jnp.square(g / scale.reshape(-1, *[1] * (g.ndim - 1))), axis=_own_axes(g))
        for g in leaves
    )
    # largest carries NaN and inf; the sum of squares might have lost an inf to inf/inf only.
    return jnp.where(jnp.isfinite(largest), scale * jnp.sqrt(squares), largest)


def _own_axes(per_example: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, per_example.ndim))


def clip_factors(norms: jax.Array, clip_norm: float, mask: jax.Array) -> jax.Array:
    """min(1, C/‖g‖) with the rounding margin, `(B,)` float32; 0 where masked or not finite."""
    bound = clip_norm * (1.0 - ROUNDING_MARGIN)
    factors = jnp.minimum(1.0, bound / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny))
    return jnp.where(mask & jnp.isfinite(norms), factors, 0.0).astype(jnp.float32)


def _weighted_sum(factors: jax.Array, per_example: jax.Array) -> jax.Array:
    rows = factors.reshape(-1, *[1] * (per_example.ndim - 1))
    # 0 × NaN is NaN: rows that must not count are replaced, not scaled.
    counted = jnp.where(rows > 0, per_example, 0.0)
    # Full float32: the default precision of accelerators would round the operands.
    return jnp.tensordot(factors, counted, axes=1, precision=jax.lax.Precision.HIGHEST)
